"""Transcripts by CTC's n best and the plain LLM's choice among them: the same in a batch as alone, as by plain sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from soundwave.checkpoints.lora import attach_lora
from soundwave.ctc.ngram_training import train_ngram
from soundwave.errors import ConfigurationError
from soundwave.inference.engine import Engine
from soundwave.inference.transcription import differing
from soundwave.inference_config import BeamSearchOptions, InferenceConfig, RescoringOptions, TranscribeConfig

SENTENCES = [line.split() for line in ("the cat sat", "the person on the cat", "a son", "so the son sat", "on a cat")]
LETTERS = "Ġabcdefghijklmnopqrstuvwxyz'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    train_ngram(SENTENCES, order=2, least=1).save(place / "ngram.npz")
    return place


def engine_with(folder: Path, llm: bool = True, **rescoring: Any) -> Engine:
    """A tiny engine whose CTC classes are letters and whose words are those of the n-gram."""
    tokenizer = tiny.chat_tokenizer()
    model = tiny.model(tiny.config(ctc_vocabulary=sorted(tokenizer.convert_tokens_to_ids(list(LETTERS)))))
    attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
    for name, parameter in model.language_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
    transcribe = TranscribeConfig(
        llm=llm, ngram="ngram.npz", rescoring=RescoringOptions(**rescoring),
        search=BeamSearchOptions(unknown_word=None, class_width=1000, beam_width=1000, sure_blank=1.0),
    )
    engine = tiny.engine(model=model.eval().requires_grad_(False), inference=InferenceConfig(transcribe=transcribe))
    return Engine(engine.encoder, engine.decoder, engine.processor, engine.inference, "tiny", folder)


def clip(seconds: float, seed: int) -> tuple[Any, int]:
    return tiny.sound(seconds, seed=seed), 16_000


CLIPS = [clip(seconds, seed) for seed, seconds in enumerate((1.0, 2.3, 0.7, 1.7))]


def hypotheses_of(engine: Engine, sound: tuple[Any, int]) -> list[Any]:
    logprobs = engine.encode(sound).ctc_logprobs
    assert logprobs is not None
    return engine._transcriber.search.decode([logprobs.numpy()], engine.inference.transcribe.rescoring.nbest)[0]


def read_whole(engine: Engine, text: str) -> float:
    """The plain LLM's log-probability of a text and the end of its turn, one typed turn read by itself."""
    prompt, (ids,) = engine._prompts.typed([text])
    (before,) = prompt.segments
    whole = [*before, *ids]
    assert engine.decoder is not None
    plain = engine.decoder._twins.get(False)  # the LLM without its LoRA, by itself
    with torch.no_grad():
        scores = plain(torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
    return scores[range(len(before) - 1, len(whole) - 1), ids].sum().item()


@pytest.mark.parametrize("sound", CLIPS)
def test_the_text_is_the_best_by_the_sum_of_all_scores(folder: Path, sound: tuple[Any, int]) -> None:
    weights = {"llm_weight": 0.7, "language_weight": 0.3, "word_bonus": -0.5}
    engine = engine_with(folder, nbest=12, read_on=None, within=1e9, **weights)
    hypotheses = hypotheses_of(engine, sound)
    assert len(hypotheses) > 3
    totals = {
        one.text: one.acoustic + 0.3 * one.language - 0.5 * len(one.words) + 0.7 * read_whole(engine, one.text)
        for one in hypotheses
    }
    transcript = engine.transcribe(sound)
    assert transcript.text == max(totals, key=totals.__getitem__)
    assert transcript.source == "ctc+llm"


@pytest.mark.parametrize(
    ("read_on", "expected"),
    [
        (None, ([1, 2, 3, 4], [1, 9, 3, 4])), (0, ([1, 2], [1, 9])), (1, ([1, 2, 3], [1, 9, 3])),
        (7, ([1, 2, 3, 4], [1, 9, 3, 4])),
    ],
)
def test_texts_are_read_to_a_few_tokens_after_what_differs(
    read_on: int | None, expected: tuple[list[int], list[int]]
) -> None:
    assert differing([1, 2, 3, 4], [1, 9, 3, 4], read_on) == expected
    assert differing([3, 4], [9, 3, 4], 0) == ([3], [9, 3]), "a token of each stays"


def test_without_the_llm_it_is_the_searchs_best(folder: Path) -> None:
    engine = engine_with(folder, llm_weight=1e6, within=1e9)
    for sound in CLIPS:
        best = hypotheses_of(engine, sound)[0].text
        assert (engine.transcribe(sound, llm=False).text, engine.transcribe(sound, llm=False).source) == (best, "ctc")
    assert [one.text for one in engine.transcribe_batch(CLIPS)] != [
        one.text for one in engine.transcribe_batch(CLIPS, llm=False)
    ], "the LLM has no say"


def test_what_the_search_finds_far_less_likely_is_not_read(folder: Path) -> None:
    engine = engine_with(folder, llm_weight=1e6, within=1e-9)
    assert [one.text for one in engine.transcribe_batch(CLIPS)] == [
        one.text for one in engine.transcribe_batch(CLIPS, llm=False)
    ]


def test_the_models_own_choice_is_the_default(folder: Path) -> None:
    assert engine_with(folder, llm=True).transcribe(CLIPS[1]).source == "ctc+llm"
    assert engine_with(folder, llm=False).transcribe(CLIPS[1]).source == "ctc"
    assert engine_with(folder, llm=False).transcribe(CLIPS[1], llm=True).source == "ctc+llm"


@pytest.mark.parametrize("llm", [True, False])
def test_a_batch_gives_what_single_calls_give(folder: Path, llm: bool) -> None:
    engine = engine_with(folder)
    together = engine.transcribe_batch(CLIPS, llm=llm)
    assert together == [engine.transcribe(one, llm=llm) for one in CLIPS]
    assert any(one.text for one in together)


def test_without_an_llm_loaded_the_search_stays(folder: Path) -> None:
    whole = engine_with(folder)
    alone = Engine(whole.encoder, None, whole.processor, whole.inference, "tiny", folder)
    assert [one.text for one in alone.transcribe_batch(CLIPS)] == [
        one.text for one in whole.transcribe_batch(CLIPS, llm=False)
    ]


def test_hot_words_can_be_said_though_no_list_has_them(folder: Path) -> None:
    engine = engine_with(folder, llm=False)
    options = replace(engine.inference.transcribe.search, hotword_bonus=100.0)
    engine.inference = replace(engine.inference, transcribe=replace(engine.inference.transcribe, search=options))
    engine = Engine(engine.encoder, engine.decoder, engine.processor, engine.inference, "tiny", folder)
    plain = engine.transcribe(CLIPS[1], llm=False).text
    assert "Zog" not in plain
    assert "Zog" in engine.transcribe(CLIPS[1], llm=False, hotwords=["Zog"]).text
    assert engine.transcribe(CLIPS[1], llm=False).text == plain, "they stayed after the call"


def test_hot_words_are_refused_where_nothing_is_searched() -> None:
    with pytest.raises(ConfigurationError, match=r"hotwords=\['Zog'\] need a model with an n-gram"):
        tiny.engine().transcribe(CLIPS[0], hotwords=["Zog"])


def test_what_is_read_begins_the_turn_that_is_answered(folder: Path) -> None:
    engine = engine_with(folder)
    for text in ("", "so", "What is the cat on?", "the cat\nand a person"):
        turn = engine.processor.tokenize([{"role": "user", "content": text}]).ids
        prompt, (ids,) = engine._prompts.typed([text])
        read = [*prompt.segments[0], *ids]
        assert read == turn[: len(read)]
        assert not prompt.adapted
