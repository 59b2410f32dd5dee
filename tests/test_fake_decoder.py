"""The decoder without weights: what it answers, and what it counts."""

from __future__ import annotations

from test_decoder_contract import GREEDY, PROMPTS, SAMPLED, VOCABULARY, WIDTH, answers, ids

from soundwave.inference.backends.fake import FakeDecoder
from soundwave.inference.backends.protocol import Prompt


def test_it_gives_the_answer_that_it_is_told_to_each_prompt() -> None:
    decoder = FakeDecoder(VOCABULARY, WIDTH, [7, 2], answer=lambda prompt: [len(prompt), 9])
    assert ids(answers(decoder, PROMPTS[:3], GREEDY)) == [[13, 9, 2], [9, 9, 2], [24, 9, 2]]
    (likely, other) = decoder.score(PROMPTS[0], [[13, 9, 2], [13, 8, 2]])
    assert -0.5 < likely < 0 > likely - 5 > other


def test_without_an_answer_it_makes_a_short_one_of_its_own() -> None:
    rows = ids(answers(FakeDecoder(VOCABULARY, WIDTH, [2]), PROMPTS, GREEDY))
    assert all(row[-1] == 2 and len(row) <= 14 for row in rows)
    plain = Prompt(PROMPTS[0].segments, adapted=False)
    assert ids(answers(FakeDecoder(VOCABULARY, WIDTH, [2]), [plain], GREEDY)) != rows[:1]
    assert ids(answers(FakeDecoder(VOCABULARY, WIDTH, [2]), PROMPTS, GREEDY)) == rows  # the same every time


def test_it_counts_the_streams_that_run() -> None:
    decoder = FakeDecoder(VOCABULARY, WIDTH, [2])
    streams = [decoder.generate(PROMPTS, SAMPLED) for _ in range(3)]
    assert decoder.running == 0
    for stream in streams:
        next(stream)
    assert decoder.running == 3
    streams[0].close()  # type: ignore[attr-defined]
    list(streams[1])
    assert decoder.running == 1
