"""Transcripts in the formats of other programs: what was said is all there, at its times, in lines that fit."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundwave.errors import ConfigurationError
from soundwave.inference.results import Segment, Transcript, Word
from soundwave.inference.subtitles import FORMATS, SubtitleOptions, format_transcript, whisper_json

FOX = Segment(
    "the quick fox", 1.0, 2.5, (Word("the", 1.0, 1.2, 0.9), Word("quick", 1.3, 1.8, 0.5), Word("fox", 1.8, 2.4, 1.0))
)
LATE = Segment("it jumps", 3661.25, 3662.0)
TALE = Transcript("the quick fox it jumps", "the quik fox", 3663.0, "en", [FOX, LATE], "ctc")


def clock(text: str) -> float:
    hours, minutes, seconds = text.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def cues_of(text: str) -> list[tuple[float, float, list[str]]]:
    """Start, end and lines of each subtitle of SRT or WebVTT, read as a player does."""
    cues = []
    for block in re.split(r"\n\n+", text.removeprefix("WEBVTT\n").strip("\n")):
        lines = block.split("\n")
        if "-->" not in lines[0]:
            lines = lines[1:]
        if lines:
            start, end = lines[0].split(" --> ")
            cues.append((clock(start), clock(end), lines[1:]))
    return cues


def test_srt() -> None:
    assert format_transcript(TALE, "srt") == (
        "1\n00:00:01,000 --> 00:00:02,500\nthe quick fox\n\n2\n01:01:01,250 --> 01:01:02,000\nit jumps\n"
    )


def test_web_vtt() -> None:
    assert format_transcript(TALE, "vtt") == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\nthe quick fox\n\n01:01:01.250 --> 01:01:02.000\nit jumps\n"
    )


def test_tab_separated_values_are_in_milliseconds() -> None:
    assert format_transcript(TALE, "tsv") == "start\tend\ttext\n1000\t2500\tthe quick fox\n3661250\t3662000\tit jumps\n"


def test_plain_text_has_a_segment_a_line() -> None:
    assert format_transcript(TALE, "txt") == "the quick fox\nit jumps\n"


def test_json_has_the_names_of_whisper() -> None:
    made = json.loads(format_transcript(TALE, "json"))
    assert made == whisper_json(TALE)
    first = made["segments"][0]
    assert made["text"] == TALE.text
    assert made["words"][1] == {"word": "quick", "start": 1.3, "end": 1.8, "probability": 0.5}
    assert first["id"] == 0
    assert first["seek"] == 100
    assert first["avg_logprob"] == pytest.approx(-0.266, abs=1e-3)  # (ln 0.9 + ln 0.5 + ln 1) / 3
    assert made["segments"][1]["avg_logprob"] is None


def test_lines_are_no_wider_and_no_more_than_allowed() -> None:
    cues = cues_of(format_transcript(TALE, "srt", SubtitleOptions(max_line_width=9, max_line_count=1)))
    assert cues == [
        (1.0, 1.8, ["the quick"]), (1.8, 2.5, ["fox"]), (3661.25, 3662.0, ["it jumps"]),
    ]
    wrapped = cues_of(format_transcript(TALE, "vtt", SubtitleOptions(max_line_width=9)))
    assert wrapped[0] == (1.0, 2.5, ["the quick", "fox"])


def test_the_word_that_is_said_is_underlined() -> None:
    cues = cues_of(format_transcript(TALE, "vtt", SubtitleOptions(highlight_words=True)))[:5]
    assert cues == [
        (1.0, 1.2, ["<u>the</u> quick fox"]), (1.2, 1.3, ["the quick fox"]), (1.3, 1.8, ["the <u>quick</u> fox"]),
        (1.8, 2.4, ["the quick <u>fox</u>"]), (2.4, 2.5, ["the quick fox"]),
    ]


def test_text_cannot_break_a_format() -> None:
    nasty = Segment("a --> b <i>\n\n7\t&", 0.0, 1.0)
    transcript = Transcript(nasty.text, "", 1.0, None, [nasty])
    assert "a -> b <i> 7 &" in format_transcript(transcript, "srt")
    assert "a --&gt; b &lt;i&gt; 7 &amp;" in format_transcript(transcript, "vtt")
    assert format_transcript(transcript, "tsv").count("\n") == 2


@pytest.mark.parametrize("form", FORMATS)
def test_where_nothing_is_said_every_format_is_valid(form: str) -> None:
    made = format_transcript(Transcript("", "", 2.0), form)  # type: ignore[arg-type]
    assert cues_of(made) == [] if form in ("srt", "vtt") else isinstance(made, str)


def test_a_count_of_lines_needs_their_width() -> None:
    with pytest.raises(ConfigurationError, match="max_line_width"):
        SubtitleOptions(max_line_count=2)
    with pytest.raises(ConfigurationError, match="0"):
        SubtitleOptions(max_line_width=0)


def test_another_format_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"docx.*srt"):
        format_transcript(TALE, "docx")  # type: ignore[arg-type]


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    time, segments = 0.0, []
    spoken = st.lists(st.text("abc-<&", min_size=1, max_size=9), min_size=1, max_size=8)
    for texts in draw(st.lists(spoken, max_size=4)):
        words = []
        for text in texts:
            start = time + draw(st.floats(0, 2))
            time = start + draw(st.floats(0, 1))
            words.append(Word(text, start, time))
        timed = tuple(words) if draw(st.booleans()) else ()
        segments.append(Segment(" ".join(texts), words[0].start, time, timed))
    return Transcript(" ".join(one.text for one in segments), "", time, None, segments)


@given(
    transcripts(), st.sampled_from(["srt", "vtt"]), st.none() | st.integers(1, 30), st.none() | st.integers(1, 3),
    st.booleans(),
)
def test_no_word_is_lost_and_time_never_goes_back(
    transcript: Transcript, form: str, width: int | None, count: int | None, highlight: bool
) -> None:
    options = SubtitleOptions(width, None if width is None else count, highlight)
    made = format_transcript(transcript, form, options)  # type: ignore[arg-type]
    for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")) if form == "vtt" else ():
        made = made.replace(entity, sign)
    cues = cues_of(made.replace("<u>", "").replace("</u>", ""))
    assert all(start < end for start, end, _ in cues)
    assert all(first[1] <= second[0] + 0.0021 * 8 for first, second in pairwise(cues))
    for _, _, lines in cues:
        assert options.max_line_count is None or len(lines) <= options.max_line_count
        assert width is None or all(len(line) <= width or " " not in line for line in lines)
    if not highlight:
        said = " ".join(" ".join(lines) for _, _, lines in cues).split()
        assert said == transcript.text.replace("-->", "->").split()
