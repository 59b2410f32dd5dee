"""Times of a cut are those of the recording that it was cut from."""

from __future__ import annotations

from soundwave.inference.results import Segment, Transcript, Word, later


def test_a_cuts_segments_and_words_are_where_the_recording_has_them() -> None:
    said = Segment("so it is", 0.1, 1.2, (Word("so", 0.1, 0.4, 0.9),))
    cut = Transcript("so it is", "so it is", 2.0, segments=[said])
    (segment,) = later(cut, 60.0).segments
    assert (segment.start, segment.end, segment.text) == (60.1, 61.2, "so it is")
    assert segment.words == (Word("so", 60.1, 60.4, 0.9),)
    assert later(cut, 60.0).duration == 2.0
