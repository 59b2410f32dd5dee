"""The sound of a whole file as rows: all its links, one after the other, each with the track that is wanted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

import numpy as np

from soundwave.audio.decoding import Reading, decode, sound_tracks, without
from soundwave.audio.links import links_of
from soundwave.audio.mixing import SILENCE_PEAK, Channels, Mixer, as_floats
from soundwave.audio.recording import Link, Recording
from soundwave.audio.resampling import SAMPLE_RATE, Rows, rechunked, resampled
from soundwave.errors import AudioError, ConfigurationError

Track = Literal["mix"] | int | None

ONE_TRACK = (b"fLaC", b"ID3", b"\xff")  # how files begin that cannot have several: flac, mp3, aac; and wav, aiff


def check_track(track: Track, channels: Channels) -> None:
    """Refuse a choice of tracks that means nothing.

    Raises:
        ConfigurationError: It is none of None, "mix", or 1, 2, …; or channels are to be chosen of mixed tracks.
    """
    number = isinstance(track, int) and not isinstance(track, bool) and track >= 1
    if track not in (None, "mix") and not number:
        raise ConfigurationError(f"track is {track!r}; allowed are None, 'mix' and a track's number from 1 on")
    if track == "mix" and channels != "mix":
        raise ConfigurationError(f"channels is {channels!r} with track 'mix'; choose one track, or channels 'mix'")


def file_rows(recording: Recording, track: Track, channels: Channels, reading: Reading) -> Iterator[Rows]:
    """The sound of a recording as (rows, T) float32 and its rate; `reading` is said of the whole file.

    Raises:
        AudioError: As `decode`; or it has fewer tracks or channels.
    """
    links = links_of(recording)
    if len(links) > 1:  # nobody knows how long each is before it is decoded
        whole = _rows(links, track, channels, Reading(0, reading.limit, reading.skip_damage))
        yield from without(whole, Fraction(reading.start))
    else:
        yield from _rows(links, track, channels, reading)


def _rows(links: list[Link], track: Track, channels: Channels, reading: Reading) -> Iterator[Rows]:
    recording = links[0].recording
    mixer = Mixer(channels, recording.label, recording.warn, start=reading.start)
    for link in links:
        indexes = _wanted(link, track)
        if len(indexes) > 1:
            yield from mixer.flush()
            yield from _mixed_tracks(link, indexes, reading)
            continue
        for block, rate in decode(link, indexes[0], reading):
            yield from mixer.add(as_floats(block, recording.label), rate)
    yield from mixer.flush()


def _wanted(link: Link, track: Track) -> list[int]:
    """The streams to decode."""
    one = bool(link.span.head) or link.bytes_at(0, 4).startswith(ONE_TRACK)
    tracks = [(0, "")] if one else sound_tracks(link)  # finding them takes as long as opening the file again
    if isinstance(track, int):
        if track > len(tracks):
            have = "one sound track" if len(tracks) == 1 else f"{len(tracks)} sound tracks"
            raise AudioError(f"{link.label} has {have}, no track {track}; count them from 1")
        return [tracks[track - 1][0]]
    if len(tracks) < 2 or track == "mix":
        return [index for index, _ in tracks] or [-1]  # the decoder says what it is instead
    taken = next((i for i, (index, _) in enumerate(tracks) if not _is_silent(link, index)), 0)
    others = ", ".join(
        f"{i + 1}" + (f" ({told})" if told else "") + (" (silent)" if i < taken else "")
        for i, (_, told) in enumerate(tracks)
        if i != taken
    )
    link.recording.warn(
        f"{link.label} has {len(tracks)} sound tracks; number {taken + 1} is read, not {others}: "
        "choose or mix them with the option track"
    )
    return [tracks[taken][0]]


def _is_silent(link: Link, index: int) -> bool:
    """Whether nothing is audible in a track; it is decoded as far as the first sound."""
    for block, _ in decode(link, index, Reading(skip_damage=True)):
        samples = as_floats(block, link.label)
        if samples.size and np.ptp(samples, axis=1).max() > 2 * SILENCE_PEAK:
            return False
    return True


def _mixed_tracks(link: Link, indexes: list[int], reading: Reading) -> Iterator[Rows]:
    """All tracks of a link, by seconds, mixed as channels are."""
    mixer = Mixer("mix", link.label, link.recording.warn, "sound tracks", reading.start)
    tracks = []
    for index in indexes:
        own = Mixer("mix", link.label, link.recording.warn, start=reading.start)
        tracks.append(rechunked(resampled(own.rows_of(decode(link, index, reading))), SAMPLE_RATE))
    for parts in itertools.zip_longest(*tracks):
        whole = np.zeros((len(parts), max(part.shape[1] for part in parts if part is not None)), np.float32)
        for row, part in zip(whole, parts, strict=True):
            if part is not None:
                row[: part.shape[1]] = part[0]
        yield from mixer.add(whole, SAMPLE_RATE)
    yield from mixer.flush()
