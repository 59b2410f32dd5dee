"""Clips joined from others: a sound between two utterances with a `<tag>` in the text, or two speakers in turn.

As in the paper's data: a sound is cut to its loudest 3 s, "… a little girl. <throat_clearing> It's a boy …"; and "The
first speaker says … The second speaker says …". Each clip follows from the seed and its number alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from soundwave.audio import SAMPLE_RATE
from soundwave.data.example import PLACEHOLDER, AudioSpan
from soundwave.data.extras import extras_of
from soundwave.data.manifests import Progress, read_examples, read_rows
from soundwave.data.probe import MAX_SECONDS, samples_of
from soundwave.errors import AudioError, DataError
from soundwave.files import JsonLines

SOUND_PROMPT = "What does the person say, and which sounds are heard?"
SPEAKERS_PROMPT = "What do the two speakers say?"
SOUND_SECONDS = 3.0
PAUSE = (0.1, 0.4)  # seconds of silence beside a sound or between two speakers
ENERGY_STEP = 0.05  # seconds
TRIES = 50  # draws for one clip before it is given up
LABEL_FIELDS = ("label", "sound", "tag", "class", "category")


@dataclass(frozen=True)
class Utterance:
    """One clip of speech: where it is, what is said, and by whom (None: not known)."""

    span: AudioSpan
    text: str
    speaker: str | None


@dataclass(frozen=True)
class Sound:
    """One clip of a sound and its tag, as in `<dog_bark>`."""

    span: AudioSpan
    tag: str


@dataclass
class Spliced:
    """What a run did: clips made now, clips of earlier runs, and clips that could not be made."""

    made: int = 0
    before: int = 0
    failed: int = 0


def splice(
    speech: str | Path, sounds: str | Path | None, out: Path, *, sound_clips: int, speaker_clips: int, seed: int = 0,
    sound_seconds: float = SOUND_SECONDS, progress: Progress | None = None,
) -> Spliced:
    """Makes FLAC clips and `manifest.jsonl` in a folder; a run that was stopped goes on where it was.

    Args:
        speech: a manifest of utterances with transcripts (and `speaker`, for two speakers).
        sounds: a manifest of sounds with a `label`; None where only speakers are joined.
        out: the folder.
        sound_clips, speaker_clips: how many of each kind.
        seed: fixes what is joined.
        sound_seconds: what a sound is cut to at most.

    Raises:
        DataError: too little to join, or a label that cannot be a tag.
    """
    spoken = utterances(speech)
    noises = sounds_of(sounds) if sounds and sound_clips else []
    if sound_clips and not noises:
        raise DataError(f"{sounds}: no row has a recording and a label; sounds need both.")
    if speaker_clips and len({one.speaker for one in spoken} - {None}) < 2:
        raise DataError(f"{speech}: two speakers are needed; add the field `speaker`, or join sounds only.")
    plan = [(f"sound-{n:06d}.flac", True) for n in range(sound_clips)]
    plan += [(f"speakers-{n:06d}.flac", False) for n in range(speaker_clips)]
    with JsonLines(out / "manifest.jsonl") as clips:
        done = {row["audio"] for row in clips.earlier}
        result = Spliced(before=len(done))
        for number, (name, with_sound) in enumerate(plan, 1):
            if name not in done:
                draw = random.Random(f"{seed}/{name}")
                clip = _with_sound(spoken, noises, sound_seconds, draw) if with_sound else _speakers(spoken, draw)
                if clip is None:
                    result.failed += 1
                else:
                    samples, row = clip
                    soundfile.write(out / name, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
                    clips.add({"audio": name, **row})
                    result.made += 1
            if progress:
                progress(number, len(plan))
    return result


def utterances(manifest: str | Path) -> list[Utterance]:
    """The rows with one recording and known words.

    Raises:
        DataError: there are fewer than two.
    """
    known = []
    for row, example in read_examples(manifest):
        if len(example.audios) == 1 and example.transcript:
            speaker = extras_of(row.fields).get("speaker")
            said = " ".join((example.spoken or "").split())
            known.append(Utterance(example.audios[0], said, None if speaker is None else str(speaker)))
    if len(known) < 2:
        raise DataError(f"{manifest}: {len(known)} rows have one recording and a transcript; two are joined at least.")
    return known


def sounds_of(manifest: str | Path) -> list[Sound]:
    """The rows with a recording and a label. A row needs no text: it is not a training example by itself.

    Raises:
        DataError: no such manifest, or a label that cannot be a tag.
    """
    labelled = []
    for row in read_rows(manifest):
        label = next((row.fields[name] for name in LABEL_FIELDS if row.fields.get(name)), None)
        audio = row.fields.get("audio", row.fields.get("audio_filepath"))
        if isinstance(audio, str) and label is not None:
            path = audio if audio.startswith("data:") else str((row.folder / audio).absolute())
            labelled.append(Sound(AudioSpan(path, row.fields.get("start"), row.fields.get("end")), tag_of(str(label))))
    return labelled


def tag_of(label: str) -> str:
    """A label as a tag: "dog bark" is `<dog_bark>`.

    Raises:
        DataError: nothing is left of it, or it is the mark of audio.
    """
    tag = f"<{re.sub(r'[^a-z0-9]+', '_', label.lower()).strip('_')}>"
    if tag in ("<>", PLACEHOLDER):
        raise DataError(f"the label {label!r} would be the tag {tag}, which is not allowed; rename it.")
    return tag


def loudest(samples: np.ndarray, seconds: float) -> np.ndarray:
    """The stretch of (samples,) of at most `seconds` with the most energy, faded at both ends."""
    length = round(seconds * SAMPLE_RATE)
    if len(samples) > length:
        energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
        starts = np.arange(0, len(samples) - length + 1, round(ENERGY_STEP * SAMPLE_RATE))
        start = int(starts[np.argmax(energy[starts + length] - energy[starts])])
        samples = samples[start : start + length]
    fade = min(len(samples) // 2, SAMPLE_RATE // 100)  # 10 ms: a cut must not click
    shape = np.ones(len(samples), dtype=np.float32)
    shape[:fade] = np.linspace(0, 1, fade, dtype=np.float32)
    shape[len(shape) - fade :] = np.linspace(1, 0, fade, dtype=np.float32)
    return samples * shape


def _with_sound(
    spoken: Sequence[Utterance], sounds: Sequence[Sound], seconds: float, draw: random.Random
) -> tuple[np.ndarray, dict[str, Any]] | None:
    for _ in range(TRIES):
        first = draw.choice(spoken)
        sound = draw.choice(sounds)
        same = [utterance for utterance in spoken if utterance.speaker == first.speaker and utterance != first]
        second = draw.choice(same or [utterance for utterance in spoken if utterance != first] or list(spoken))
        try:
            loud = loudest(samples_of(sound.span, max_seconds=None), seconds)
            joined = _joined([samples_of(first.span), loud, samples_of(second.span)], draw)
        except AudioError:
            continue
        if joined is not None:
            text = f"{sentence(first.text)} {sound.tag} {sentence(second.text)}"
            speaker = first.speaker if first.speaker == second.speaker else None
            return joined, _row(SOUND_PROMPT, text, first, second, joined, "speech-with-sound", speaker)
    return None


def _speakers(spoken: Sequence[Utterance], draw: random.Random) -> tuple[np.ndarray, dict[str, Any]] | None:
    known = [utterance for utterance in spoken if utterance.speaker is not None]
    for _ in range(TRIES):
        first = draw.choice(known)
        second = draw.choice([utterance for utterance in known if utterance.speaker != first.speaker])
        try:
            joined = _joined([samples_of(first.span), samples_of(second.span)], draw)
        except AudioError:
            continue
        if joined is not None:
            text = f"The first speaker says {sentence(first.text)} The second speaker says {sentence(second.text)}"
            both = f"{first.speaker}+{second.speaker}"
            return joined, _row(SPEAKERS_PROMPT, text, first, second, joined, "two-speakers", both)
    return None


def _joined(pieces: Sequence[np.ndarray], draw: random.Random) -> np.ndarray | None:
    """Pieces with short pauses between, all as loud as the first; None where they are longer than one example may be.

    Loudness is the root mean square of a piece.
    """
    level = float(np.sqrt(np.mean(pieces[0].astype(np.float64) ** 2)))
    parts: list[np.ndarray] = []
    for piece in pieces:
        own = float(np.sqrt(np.mean(piece.astype(np.float64) ** 2)))
        if own <= 0:
            return None  # nothing is heard in it
        if parts:
            parts.append(np.zeros(round(draw.uniform(*PAUSE) * SAMPLE_RATE), dtype=np.float32))
        parts.append(piece * np.float32(level / own))
    samples = np.concatenate(parts)
    peak = float(np.abs(samples).max())
    samples = samples * np.float32(0.95 / peak) if peak > 0.95 else samples
    return samples if len(samples) <= MAX_SECONDS * SAMPLE_RATE else None


def sentence(text: str) -> str:
    """The text with a stop at its end."""
    text = text.strip()
    return text if text[-1:] in ".!?" else text.rstrip(",;: ") + "."


def _row(
    prompt: str, text: str, first: Utterance, second: Utterance, samples: np.ndarray, task: str, speaker: str | None
) -> dict[str, Any]:
    row = {
        "prompt": prompt, "text": text, "transcript": f"{first.text} {second.text}",
        "duration": round(len(samples) / SAMPLE_RATE, 3), "task": task,
    }
    return row if speaker is None else {**row, "speaker": speaker}
