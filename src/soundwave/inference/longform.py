"""Recordings of any length to transcripts, part by part, in memory that does not grow with them.

Stretches come from `stretches.read_ahead`; what is said in each is found by the `Transcriber`; here they are put
together. Where two stretches share some speech, each word is written once: a seam is laid between two words, and words
before it are those of the first stretch, words after it those of the second.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from soundwave.audio import SAMPLE_RATE, Lost
from soundwave.errors import SoundwaveError
from soundwave.inference.options import AudioOptions, TranscribeOptions
from soundwave.inference.results import Segment, Source, Speech, Transcript, Word, later
from soundwave.inference.speech import SpeechFrontEnd
from soundwave.inference.stretches import Ended, Event, Failed, Heard, Listening, Mark, NewCutter, Warned, read_ahead
from soundwave.inference.stretches import new_cutter as usual_cutter
from soundwave.inference.transcription import Transcriber

AT_ONCE_ON_CPU = 2  # stretches: more gain nothing there, and what is said should soon be seen
AT_ONCE = 16
SEAM_SHARE = 0.6  # of what two stretches share: its middle, in which the seam is laid; words at its ends are cut


@dataclass(frozen=True)
class Part:
    """A further piece of a transcript; what it says is final.

    Attributes:
        recording: its number among those given.
        channel: from 0; always 0 but with channels="each".
        text, ctc_text, segments, source: as of a `Transcript`, in times of the recording.
        seconds: up to where the channel is written down, in seconds of the recording; with `whole`, its length.
        mark: from which another run may go on after this part; None: not before the next part.
        ending: the recording's end may have shaped it.
        whole: nothing more comes of this recording.
        warning: what is not as it should be in the recording.
        lost: the warning is of sound that could not be decoded.
        error: why there is nothing more of this recording.
    """

    recording: int
    channel: int = 0
    text: str = ""
    ctc_text: str = ""
    segments: tuple[Segment, ...] = ()
    source: Source | None = None
    seconds: float = 0.0
    mark: Mark | None = None
    ending: bool = False
    whole: bool = False
    warning: str = ""
    lost: bool = False
    error: SoundwaveError | None = None


class LongTranscriber:
    """Writes recordings down.

    Args:
        front_end: encodes stretches.
        transcriber: finds their words.
        new_cutter: makes what cuts a recording.
    """

    def __init__(self, front_end: SpeechFrontEnd, transcriber: Transcriber, new_cutter: NewCutter = usual_cutter):
        self.front_end, self.transcriber, self.new_cutter = front_end, transcriber, new_cutter

    def parts(self, recordings: Sequence[Listening], options: TranscribeOptions) -> Generator[Part, None, None]:
        """The transcripts of recordings, part by part as they are found; closing it stops the work.

        Stretches are taken in batches, across recordings; each gets the words that it gets alone.

        Raises:
            ConfigurationError: an option that this model cannot keep.
        """
        at_once = AT_ONCE_ON_CPU if self.front_end.encoder.device.type == "cpu" else AT_ONCE
        joiners: dict[tuple[int, int], _Joiner] = {}
        with closing(read_ahead(recordings, self.new_cutter, at_once)) as batches:
            for events in batches:
                found = self._found(events, options)
                for event in events:
                    yield from self._joined(event, found, joiners, recordings)

    def _found(self, events: Sequence[Event], options: TranscribeOptions) -> dict[int, _Found]:
        """Speech and transcript of each stretch, by the event's identity."""
        heard = [event for event in events if isinstance(event, Heard) and event.stretch is not None]
        if not heard:
            return {}
        stretches = [event.stretch for event in heard if event.stretch is not None]
        clips, voices = [one.samples for one in stretches], [one.voice for one in stretches]
        speeches = self.front_end.encode_clips(clips, self.transcriber.has_words, voices)
        transcripts = self.transcriber.transcribe(speeches, options)
        return {
            id(event): _Found(event, transcript, self._ctc_tokens(speech))
            for event, transcript, speech in zip(heard, transcripts, speeches, strict=True)
        }

    def _ctc_tokens(self, speech: Speech) -> tuple[tuple[float, int], ...]:
        middles = [(start + end) / 2 for start, end in speech.token_times]
        return tuple(zip(middles, speech.ctc_token_ids, strict=True))

    def _joined(
        self, event: Event, found: dict[int, _Found], joiners: dict[tuple[int, int], _Joiner],
        recordings: Sequence[Listening],
    ) -> Iterator[Part]:
        number, start = event.recording, recordings[event.recording].sound.start
        if isinstance(event, Heard):
            key = (number, event.channel)
            if key not in joiners:
                mark = recordings[number].marks.get(event.channel, Mark())
                joiners[key] = _Joiner(self.front_end, number, event.channel, start, mark.seam)
            yield from joiners[key].add(event, found.get(id(event)))
            return
        own = [joiners.pop(key) for key in sorted(joiners) if key[0] == number]
        if isinstance(event, Warned):
            joiners.update({(number, joiner.channel): joiner for joiner in own})
            yield Part(number, warning=event.text, lost=isinstance(event.text, Lost))
            return
        for joiner in own:
            yield from joiner.end()
        if isinstance(event, Failed):
            yield Part(number, error=event.error)
        elif isinstance(event, Ended):
            yield Part(number, max(0, event.channels - 1), seconds=event.seconds + start, whole=True)


@dataclass(frozen=True, eq=False)
class _Found:
    """A stretch and its transcript, in times of the stretch; the middle and the id of each CTC token."""

    event: Heard
    transcript: Transcript
    tokens: tuple[tuple[float, int], ...]


class _Joiner:
    """Puts the stretches of one channel together; the last one waits until it is known what follows it."""

    def __init__(self, front_end: SpeechFrontEnd, recording: int, channel: int, start: float, seam: float | None):
        self.front_end, self.recording, self.channel, self.start, self.seam = (
            front_end, recording, channel, start, seam,
        )
        self._waiting: _Found | None = None
        self._words: list[Word] = []  # of the one that waits, in times of the recording

    def add(self, event: Heard, found: _Found | None) -> Iterator[Part]:
        """The parts that are final now that one more stretch, or silence, is heard."""
        words: list[Word] = []
        if found is not None and event.stretch is not None:
            begin = self._seconds(event.stretch.first)
            found = replace(found, transcript=later(found.transcript, begin))
            words = [word for segment in found.transcript.segments for word in segment.words]
            if self._waiting is not None and event.stretch.overlap:
                end = self._seconds(event.stretch.first + event.stretch.overlap)
                yield self._final(seam_between(self._words, words, begin, end))
        yield from self.end()
        self._waiting, self._words = found, words
        if found is None:
            yield Part(self.recording, self.channel, seconds=self._done(event.mark), mark=event.mark)
        elif event.mark is not None and event.stretch is not None and event.mark.position >= event.stretch.end:
            yield from self.end()

    def end(self) -> Iterator[Part]:
        """What still waits: nothing follows that shares sound with it."""
        if self._waiting is not None:
            yield self._final(None)

    def _final(self, seam: float | None) -> Part:
        """The stretch that waits, between the seam before it and the one after it."""
        assert self._waiting is not None
        found, before, self.seam, self._waiting = self._waiting, self.seam, seam, None
        event, transcript = found.event, found.transcript
        text, ctc_text, segments = transcript.text, transcript.ctc_text, tuple(transcript.segments)
        if before is not None or seam is not None:
            first, last = -1.0 if before is None else before, float("inf") if seam is None else seam
            segments = tuple(_between(segments, first, last))
            text = " ".join(segment.text for segment in segments)
            begin = self._seconds(event.stretch.first) if event.stretch is not None else 0.0
            ids = [token for middle, token in found.tokens if first <= middle + begin < last]
            ctc_text = self.front_end.text(ids)
        mark = None if event.mark is None else replace(event.mark, seam=seam)
        done = self._done(mark) if mark is not None else self._seconds(event.stretch.end if event.stretch else 0)
        return Part(
            self.recording, self.channel, text, ctc_text, segments, transcript.source, done, mark, event.ending
        )

    def _seconds(self, position: int) -> float:
        return self.start + position / SAMPLE_RATE

    def _done(self, mark: Mark | None) -> float:
        return 0.0 if mark is None else self._seconds(mark.position)


def seam_between(left: Sequence[Word], right: Sequence[Word], begin: float, end: float) -> float:
    """Where to go over from one stretch's words to the next one's, in seconds.

    It lies in the middle of what both share, as far as may be from the middle of every word of both: a word that one
    stretch has a little earlier than the other is then on the same side in both.

    Args:
        left, right: the words of both stretches, in times of the recording.
        begin, end: of the sound that both share.

    >>> word = Word("a", 10.3, 10.5)
    >>> round(seam_between([word], [Word("a", 10.34, 10.52)], 10.0, 11.0), 3)
    10.615
    """
    margin = (1 - SEAM_SHARE) / 2 * (end - begin)
    first, last = begin + margin, end - margin
    middles = [(word.start + word.end) / 2 for word in (*left, *right)]
    inside = [middle for middle in middles if first < middle < last]
    before = max((middle for middle in middles if middle <= first), default=first)
    behind = min((middle for middle in middles if middle >= last), default=last)
    places = [
        min(max((one + other) / 2, first), last) for one, other in pairwise(sorted([before, *inside, behind]))
    ]
    return max(places, key=lambda place: min((abs(place - middle) for middle in middles), default=0.0))


def _between(segments: Iterable[Segment], first: float, last: float) -> Iterator[Segment]:
    """The words of segments whose middle lies between two times."""
    for segment in segments:
        words = tuple(word for word in segment.words if first <= (word.start + word.end) / 2 < last)
        if not segment.words:
            if first <= (segment.start + segment.end) / 2 < last:
                yield segment
        elif len(words) == len(segment.words):
            yield segment
        elif words:
            text = " ".join(word.text for word in words)
            yield replace(segment, text=text, start=words[0].start, end=words[-1].end, words=words)


def spoken_in(part: Part, sound: AudioOptions) -> Iterator[Segment]:
    """The segments of a part, with the channel as their speaker where the channels are written down one by one."""
    for segment in part.segments:
        yield replace(segment, speaker=f"channel {part.channel + 1}") if sound.channels == "each" else segment


def joined(parts: Iterable[Part], source: Source) -> Transcript:
    """All parts of one recording as its transcript.

    Where its channels were written down one by one, the segments of all stand in order of time, each with its speaker
    (`channel 1`), and the text has a line for each turn.

    Args:
        parts: in the order in which they came.
        source: of a recording in which nothing was heard.
    """
    parts = list(parts)
    channels = 1 + max((part.channel for part in parts), default=0)
    seconds = max((part.seconds for part in parts), default=0.0)
    source = next((part.source for part in parts if part.source is not None), source)
    ctc_text = " ".join(
        part.ctc_text for channel in range(channels) for part in parts if part.channel == channel and part.ctc_text
    )
    if channels == 1:
        text = " ".join(part.text for part in parts if part.text)
        segments = [segment for part in parts for segment in part.segments]
        return Transcript(text, ctc_text, round(seconds, 3), None, segments, source)
    spoken = [
        replace(segment, speaker=f"channel {part.channel + 1}") for part in parts for segment in part.segments
    ]
    spoken.sort(key=lambda segment: segment.start)
    turns = groupby(spoken, key=lambda segment: segment.speaker)
    text = "\n".join(f"{speaker}: {' '.join(one.text for one in turn)}" for speaker, turn in turns)
    return Transcript(text, ctc_text, round(seconds, 3), None, spoken, source)
