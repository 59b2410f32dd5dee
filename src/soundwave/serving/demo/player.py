"""A transcript as HTML: words that know when they were said, marks on those that may be wrong, files to keep.

What is said is text to the page, whatever it looks like: all of it is escaped.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

from soundwave.inference.results import Segment, Transcript, Word
from soundwave.inference.subtitles import timed_words
from soundwave.serving.demo.visits import DOWNLOADS, Recording

SURE, DOUBTFUL = 0.8, 0.5  # confidence from which on a word bears no mark, and below which it bears two
LEGEND = (
    '<p class="sw-legend"><span class="sw-unsure">dotted</span>: perhaps misheard. '
    '<span class="sw-doubtful">wavy</span><sup>?</sup>: probably misheard. Select a word to hear it.</p>'
)
NOTHING_YET = '<p class="sw-nothing">The words appear here, with the recording to listen to.</p>'
FORMAT_NAMES = {"srt": "SRT subtitles", "vtt": "WebVTT subtitles", "txt": "plain text", "json": "JSON with word times"}


def transcript_html(transcript: Transcript, recording: Recording, whole: bool = True) -> str:
    """The transcript with its player; before it is `whole`, the words alone.

    Args:
        transcript: as far as it is known.
        recording: what it was made of.
        whole: whether the transcript is complete, and its downloads are written.
    """
    player = _player(recording) if whole else ""
    if not transcript.text:
        words = '<p class="sw-nothing">No speech was found in this recording.</p>' if whole else ""
        return player + words
    segments = "".join(map(_segment, transcript.segments))
    return f'{player}<ol class="sw-segments">{segments}</ol>' + (_foot(recording) if whole else "")


def address_of(path: Path) -> str:
    """Where the page finds a file; relative, so that it holds behind a proxy too."""
    return f"gradio_api/file={quote(path.as_posix())}"


def clock(seconds: float) -> str:
    """Minutes and seconds: 75.2 is 1:15."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def length(seconds: float) -> str:
    """A bound in words: 600 is `10 minutes`."""
    return f"{seconds:g} seconds" if seconds < 60 else f"{seconds / 60:g} minutes"


def _player(recording: Recording) -> str:
    name = escape(recording.name)
    return (
        f'<p class="sw-name">{name} <span>{clock(recording.seconds)}</span></p>'
        f'<audio controls preload="auto" src="{escape(address_of(recording.sound))}" aria-label="{name}"></audio>'
    )


def _segment(segment: Segment) -> str:
    at = clock(segment.start)
    words = " ".join(map(_word, timed_words(segment)))
    return (
        f'<li><button type="button" class="sw-time" data-seek="{segment.start:.2f}" '
        f'aria-label="Play from {at}">{at}</button><p>{words}</p></li>'
    )


def _word(word: Word) -> str:
    """A word; how sure of it the model is shows in its underline, in a sign, and in figures where they are wanted."""
    confidence = word.confidence
    told, mark, percent = "", "", ""
    if confidence is not None:
        told = f' title="{confidence:.0%} sure"'
        percent = f'<small class="sw-percent" hidden>{confidence:.0%}</small>'
        if confidence < SURE:
            mark = " sw-doubtful" if confidence < DOUBTFUL else " sw-unsure"
    sign = '<sup aria-label="probably misheard">?</sup>' if mark == " sw-doubtful" else ""
    times = f'data-start="{word.start:.2f}" data-end="{word.end:.2f}"'
    return f'<span class="sw-word{mark}" {times}{told}>{escape(word.text)}</span>{sign}{percent}'


def _foot(recording: Recording) -> str:
    links = " ".join(
        f'<a href="{escape(address_of(recording.download(form)))}" download '
        f'aria-label="Download {FORMAT_NAMES[form]}">{form}</a>'
        for form in DOWNLOADS
    )
    return (
        f'{LEGEND}<div class="sw-foot"><label><input type="checkbox" class="sw-show-percent"> '
        f"Show how sure each word is</label><span>Download: {links}</span></div>"
    )
