"""Runs that the LLM's own BPE would merge become one position: what CTC spells, the LLM reads as it would write it."""

from __future__ import annotations

import pytest
import tiny
import torch

from soundwave.errors import ConfigurationError
from soundwave.model.adapters import ShrinkingAdapter
from soundwave.model.shrink import find_runs, merge_runs, merge_tokens
from soundwave.text.ctc_tokenizer import CtcTokenizer, build_vocabulary, merge_table

MERGES = {(1, 2): (1, 10), (10, 3): (0, 11), (3, 4): (2, 12)}


@pytest.mark.parametrize(
    ("tokens", "merged"),
    [
        ([], []),
        ([5], [(5, 1)]),
        ([1, 2], [(10, 2)]),
        ([1, 2, 3], [(11, 3)]),  # a merge of merges
        ([1, 2, 3, 4], [(11, 3), (4, 1)]),  # rank 0 takes the 3 before rank 2 can
        ([3, 4, 1, 2], [(12, 2), (10, 2)]),
        ([2, 1], [(2, 1), (1, 1)]),  # order matters
        ([1, -1, 2], [(1, 1), (-1, 1), (2, 1)]),  # a blank between keeps them apart
    ],
)
def test_bpe_goes_on_from_tokens(tokens: list[int], merged: list[tuple[int, int]]) -> None:
    assert merge_tokens(tokens, MERGES) == merged


def test_merged_runs_cover_the_frames_of_their_parts() -> None:
    blank = 9
    path = torch.tensor([[9, 1, 1, 9, 2, 3, 9, 5], [4, 9, 4, 9, 9, 0, 0, 0]])
    valid = torch.tensor([[True] * 8, [True] * 5 + [False] * 3])
    runs = find_runs(path, valid, blank, "pool")
    tokens = runs.classes.masked_fill((runs.classes == blank) | ~runs.mask, -1)
    merged, joined, size = merge_runs(runs, tokens, MERGES)
    assert joined.tolist() == [[11, 5, -1], [4, 4, -1]]
    assert size.tolist() == [[3, 1, 1], [1, 1, 1]]
    assert merged.of_frame.tolist() == [[2, 0, 0, 2, 0, 0, 2, 1], [0, 2, 1, 2, 2, -1, -1, -1]]
    assert merged.start[0, :2].tolist() == [1, 7]
    assert merged.end[0, :2].tolist() == [6, 8]
    assert merged.mask.all()


def test_a_batch_merges_as_each_clip_does() -> None:
    draw = torch.Generator().manual_seed(3)
    path = torch.randint(0, 6, (5, 30), generator=draw)
    lengths = [30, 17, 1, 25, 8]
    valid = torch.arange(30) < torch.tensor(lengths)[:, None]
    runs = find_runs(path, valid, 0, "drop")
    tokens = runs.classes.masked_fill(~runs.mask, -1)
    merged, joined, size = merge_runs(runs, tokens, MERGES)
    for i, length in enumerate(lengths):
        alone = find_runs(path[i : i + 1, :length], valid[i : i + 1, :length], 0, "drop")
        one, one_joined, one_size = merge_runs(alone, alone.classes, MERGES)
        count = int(merged.mask[i].sum())
        assert one.mask.shape == (1, count)
        assert torch.equal(joined[i, :count], one_joined[0])
        assert torch.equal(size[i, :count], one_size[0])
        assert torch.equal(merged.of_frame[i, :length], one.of_frame[0])


def test_what_a_restricted_vocabulary_spells_becomes_the_tokenizers_own_tokens() -> None:
    tokenizer = tiny.chat_tokenizer()
    vocabulary = build_vocabulary(tokenizer, ["the person on the cat", "son"], 34)
    ctc = CtcTokenizer(tokenizer, vocabulary)
    table = {(a, b): (rank, c) for rank, (a, b, c) in enumerate(merge_table(tokenizer, vocabulary))}
    text = "the cat person on the son"
    pieces = [vocabulary[c] for c in ctc.encode(text)]
    whole = tokenizer(" " + text, add_special_tokens=False).input_ids
    assert [token for token, _ in merge_tokens(pieces, table)] == whole
    assert len(whole) < len(pieces)


def test_a_merged_position_reads_as_the_typed_token() -> None:
    config = tiny.config(ctc_vocabulary=[1, 2, 3, 4], ctc_merges=1)
    adapter = ShrinkingAdapter(config).eval()
    adapter.merges.copy_(torch.tensor([[2, 3, 50]]))
    torch.nn.init.zeros_(adapter.norm.weight)  # without the look-back: only what stands for the token
    width = config.text_config.hidden_size
    table = torch.randn(config.text_config.vocab_size, width, generator=torch.Generator().manual_seed(1))
    logits = torch.full((1, 4, 5), -20.0)
    for frame, decision in enumerate([1, 4, 2, 3]):  # token 2, blank, token 3, token 4
        logits[0, frame, decision] = 20.0
    valid = torch.ones(1, 4, dtype=torch.bool)
    shrunk = adapter(torch.randn(1, 4, width), logits, valid, torch.tensor([1, 2, 3, 4]), table)
    assert torch.allclose(shrunk.embeddings[0, 0], table[50], atol=1e-5)
    assert torch.allclose(shrunk.embeddings[0, 1], table[4], atol=1e-5)
    assert shrunk.runs.mask.sum() == 4
    assert shrunk.positions.mask.sum() == 3  # the pooled blank is the last


@pytest.mark.parametrize("switch", [{"blank_handling": "one_per_run"}, {"audio_embedding": "look_back"}])
def test_merging_refuses_what_it_cannot_be_combined_with(switch: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="ctc_merges=3 joins tokens, so it needs"):
        tiny.config(ctc_vocabulary=[1, 2], ctc_merges=3, **switch)
