"""A transcript as text that other programs read: plain text, SRT, WebVTT, tab-separated values, Whisper's JSON.

It knows words and their times, and neither where the words came from nor where the text goes.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from soundwave.errors import ConfigurationError
from soundwave.inference.options import SubtitleOptions
from soundwave.inference.results import Segment, Transcript, Word

TranscriptFormat = Literal["txt", "srt", "vtt", "tsv", "json"]
FORMATS: tuple[TranscriptFormat, ...] = get_args(TranscriptFormat)
SHORTEST_CUE = 0.001  # s; players drop cues that end as they begin
VTT_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def format_transcript(transcript: Transcript, form: TranscriptFormat, options: SubtitleOptions | None = None) -> str:
    """A transcript in one of the formats, with a line break at its end.

    Args:
        transcript: with times where the format has them.
        form: `txt`, a segment a line; `srt`; `vtt`; `tsv`, start and end in milliseconds; `json`, see `whisper_json`.
        options: of the layout of `srt` and `vtt`.

    Raises:
        ConfigurationError: another format.
    """
    options = options or SubtitleOptions()
    if form == "json":
        return json.dumps(whisper_json(transcript), ensure_ascii=False, indent=2) + "\n"
    if form == "txt":
        return "\n".join(map(_said, transcript.segments or [Segment(transcript.text, 0, 0)])) + "\n"
    if form == "tsv":
        rows = [(_milliseconds(one.start), _milliseconds(one.end), _said(one)) for one in transcript.segments]
        return "start\tend\ttext\n" + "".join(f"{start}\t{end}\t{text}\n" for start, end, text in rows)
    if form == "srt":
        cues = [
            f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n"
            for number, (start, end, text) in enumerate(_cues(transcript.segments, options, _srt_text), 1)
        ]
        return "\n".join(cues)
    if form == "vtt":
        cues = [
            f"\n{_clock(start, '.')} --> {_clock(end, '.')}\n{text}\n"
            for start, end, text in _cues(transcript.segments, options, _vtt_text)
        ]
        return "WEBVTT\n" + "".join(cues)
    raise ConfigurationError(f"the format {form!r} is not known; choose one of {', '.join(FORMATS)}.")


def whisper_json(transcript: Transcript) -> dict[str, Any]:
    """A transcript under the names of Whisper's JSON (OpenAI's `verbose_json`), and what only we know.

    Of Whisper's own decoding there is no counterpart for `tokens` (empty) and `no_speech_prob` (null); `temperature` is
    0, for the words are searched, not sampled. `avg_logprob` is the mean of the words' log-confidences, null where
    they have none.
    """
    segments: list[dict[str, Any]] = []
    for number, one in enumerate(transcript.segments):
        known = [word.confidence for word in one.words if word.confidence is not None]
        mean = sum(math.log(max(confidence, 1e-6)) for confidence in known) / len(known) if known else None
        raw = one.text.encode("utf-8")
        segments.append({
            "id": number, "seek": round(one.start * 100), "start": round(one.start, 3), "end": round(one.end, 3),
            "text": one.text, "tokens": [], "temperature": 0.0, "avg_logprob": mean,
            "compression_ratio": round(len(raw) / len(zlib.compress(raw)), 3), "no_speech_prob": None,
            "words": [_json_word(word) for word in one.words], **({"speaker": one.speaker} if one.speaker else {}),
        })
    return {
        "task": "transcribe", "language": transcript.language, "duration": transcript.duration,
        "text": transcript.text, "segments": segments, "words": [word for one in segments for word in one["words"]],
        "source": transcript.source, "ctc_text": transcript.ctc_text,
    }


def _json_word(word: Word) -> dict[str, Any]:
    made = {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
    return made if word.confidence is None else {**made, "probability": round(word.confidence, 4)}


def timed_words(segment: Segment) -> list[Word]:
    """The words of a segment; where they have no times of their own, the segment's is shared out by their letters.

    >>> [(word.text, word.start, word.end) for word in timed_words(Segment("be kind", 0.0, 6.0))]
    [('be', 0.0, 2.0), ('kind', 2.0, 6.0)]
    """
    if segment.words:
        return [replace(word, text=_line(word.text)) for word in segment.words if word.text.strip()]
    texts = segment.text.split()
    letters = max(1, sum(map(len, texts)))
    words, time = [], segment.start
    for text in texts:
        end = time + (segment.end - segment.start) * len(text) / letters
        words.append(Word(text, time, end))
        time = end
    return words


def lines_of(words: Sequence[Word], width: int | None) -> list[list[Word]]:
    """Words laid out in lines of at most `width` characters; a longer word has a line of its own."""
    lines: list[list[Word]] = []
    room = 0
    for word in words:
        if lines and (width is None or len(word.text) + 1 <= room):
            lines[-1].append(word)
            room -= len(word.text) + 1
        else:
            lines.append([word])
            room = (width or 0) - len(word.text)
    return lines


def _cues(segments: Sequence[Segment], options: SubtitleOptions, escape: Any) -> Iterator[tuple[float, float, str]]:
    """Start, end and text of each subtitle; none goes over the end of a segment."""
    for segment in segments:
        words = timed_words(segment)
        if segment.speaker and words:
            words[0] = replace(words[0], text=f"[{segment.speaker}]: {words[0].text}")
        lines = lines_of(words, options.max_line_width)
        count = options.max_line_count or max(1, len(lines))
        for first in range(0, len(lines), count):
            shown = lines[first : first + count]
            start = segment.start if first == 0 else shown[0][0].start
            end = segment.end if first + count >= len(lines) else shown[-1][-1].end
            if options.highlight_words:
                yield from _highlighted(shown, start, end, escape)
            else:
                yield start, max(end, start + SHORTEST_CUE), _laid_out(shown, None, escape)


def _highlighted(
    shown: list[list[Word]], start: float, end: float, escape: Any
) -> Iterator[tuple[float, float, str]]:
    """A subtitle as several: one for each word, which is underlined, and one for each wait between words."""
    words = [word for line in shown for word in line]
    time = start
    for word in words:
        begins = max(time, word.start)
        if begins - time >= SHORTEST_CUE:
            yield time, begins, _laid_out(shown, None, escape)
        ends = max(word.end, begins + SHORTEST_CUE)
        yield begins, ends, _laid_out(shown, word, escape)
        time = ends
    if end - time >= SHORTEST_CUE:
        yield time, end, _laid_out(shown, None, escape)


def _laid_out(shown: list[list[Word]], highlighted: Word | None, escape: Any) -> str:
    return "\n".join(
        " ".join(f"<u>{escape(word.text)}</u>" if word is highlighted else escape(word.text) for word in line)
        for line in shown
    )


def _said(segment: Segment) -> str:
    """The text of a segment on a line, after its speaker where that is known."""
    return f"[{segment.speaker}]: {_line(segment.text)}" if segment.speaker else _line(segment.text)


def _line(text: str) -> str:
    """Text without line breaks and tabs, which the formats give a meaning to."""
    return " ".join(text.split())


def _srt_text(text: str) -> str:
    return text.replace("-->", "->")  # else a player takes it for a line of times


def _vtt_text(text: str) -> str:
    return "".join(VTT_ENTITIES.get(sign, sign) for sign in text)


def _milliseconds(seconds: float) -> int:
    return round(max(0.0, seconds) * 1000)


def _clock(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and milliseconds; hours have two digits at least."""
    whole, thousandths = divmod(_milliseconds(seconds), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{point}{thousandths:03}"
