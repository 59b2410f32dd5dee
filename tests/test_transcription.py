"""Writing down with an n-gram: CTC's n best texts, the plain LLM's say among them, the same in a batch as alone."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from soundwave.checkpoints.lora import attach_lora
from soundwave.ctc.beam_search import BeamSearchDecoder, Hypothesis
from soundwave.ctc.lexicon import Lexicon
from soundwave.ctc.ngram import SPECIAL
from soundwave.ctc.ngram_training import train_ngram
from soundwave.errors import ConfigurationError
from soundwave.inference.engine import Engine
from soundwave.inference_config import BeamSearchOptions, InferenceConfig

TOKENIZER = tiny.chat_tokenizer()
LETTERS = TOKENIZER.convert_tokens_to_ids([*string.ascii_lowercase, "Ġ"])
NGRAM = train_ngram(
    [["so", "a", "son"], ["the", "cat"], ["a", "person"], ["on", "at"], ["he", "or", "it"]], order=2, least=1
)
SEARCH: dict[str, Any] = {"beams": 64, "language_weight": 0.5, "word_bonus": 1.0}


def engine_with(folder: Path, lora: bool = False, **settings: Any) -> Engine:
    """Its CTC spells letters, its n-gram knows twelve words."""
    model = tiny.model(tiny.config(ctc_vocabulary=LETTERS))
    if lora:
        attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
        for name, parameter in model.language_model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
        model.eval().requires_grad_(False)
    NGRAM.save(folder / "ngram.npz")
    transcribe = {"llm": True, "ngram": "ngram.npz", "nbest": 6, "search": SEARCH, **settings}
    processor = tiny.processor(model.config, transcribe=transcribe)
    return Engine.of(model, processor, folder=folder)


def clip(seconds: float, seed: int) -> tuple[Any, int]:
    return tiny.sound(seconds, seed=seed), 16_000


SAID = clip(1.7, 2)  # "oo" for the search, "so" for the LLM


def hypotheses_of(engine: Engine, sound: tuple[Any, int], nbest: int) -> list[Hypothesis]:
    """What the search finds when it is made by hand."""
    pieces = [TOKENIZER.decode([token]) for token in LETTERS]
    lexicon = Lexicon([word for word in NGRAM.words if word not in SPECIAL], [*pieces, ""])
    logprobs = engine.encode(sound).ctc_logprobs
    assert logprobs is not None
    decoder = BeamSearchDecoder(lexicon, NGRAM, len(pieces), BeamSearchOptions(**SEARCH))
    return decoder.decode([logprobs.numpy()], nbest)[0]


def typed_turn(engine: Engine, text: str) -> float:
    """The plain LLM's log-probability of a typed turn, read whole and by itself."""
    empty, full = (engine.processor.tokenize([{"role": "user", "content": words}]).ids for words in ("", text))
    start = next(i for i, (one, other) in enumerate(zip(empty, full, strict=False)) if one != other)
    end = start + len(full) - len(empty) + 1  # with the token that ends the turn
    model = tiny.model(tiny.config(ctc_vocabulary=LETTERS)).language_model
    with torch.no_grad():
        logprobs = model(torch.tensor([full[:end]])).logits[0].log_softmax(-1)
    return sum(float(logprobs[i - 1, full[i]]) for i in range(start, end))


def test_without_the_llm_the_searchs_best_is_taken(tmp_path: Path) -> None:
    engine = engine_with(tmp_path)
    transcript = engine.transcribe(SAID, llm=False)
    assert (transcript.text, transcript.source) == (hypotheses_of(engine, SAID, 1)[0].text, "ctc")
    assert transcript.text != transcript.ctc_text


@pytest.mark.parametrize("weight", [0.0, 0.5, 1e6])
def test_the_plain_llms_say_is_added_to_the_searchs(weight: float, tmp_path: Path) -> None:
    engine = engine_with(tmp_path, lora=True, rescoring_weight=weight)
    hypotheses = hypotheses_of(engine, SAID, 6)
    scores = {one.text: one.score + weight * typed_turn(engine, one.text) for one in hypotheses}
    transcript = engine.transcribe(SAID)
    assert (transcript.text, transcript.source) == (max(scores, key=scores.__getitem__), "ctc+llm")
    assert (transcript.text == hypotheses[0].text) == (weight == 0)


def test_a_batch_of_transcripts_is_what_single_calls_give(tmp_path: Path) -> None:
    engine = engine_with(tmp_path, lora=True)
    clips = [clip(seconds, seed) for seed, seconds in enumerate((1.0, 2.3, 0.7))]
    together = [one.text for one in engine.transcribe_batch(clips)]
    assert together == [engine.transcribe(one).text for one in clips]
    assert len(set(together)) == 3


def test_a_hot_word_is_written_where_it_may_have_been_said(tmp_path: Path) -> None:
    engine = engine_with(tmp_path, search=SEARCH | {"hotword_bonus": 1000.0})
    texts = [engine.transcribe(SAID, llm=False, hotwords=words).text for words in ([], ["opo"], [])]
    assert texts == ["oo", "opo", "oo"]
    with pytest.raises(ConfigurationError, match="hotwords"):
        tiny.engine().transcribe(SAID, hotwords=["opo"])


def test_a_spoken_question_is_answered_as_its_transcript_typed(tmp_path: Path) -> None:
    engine = engine_with(tmp_path)
    greedy: dict[str, Any] = {"temperature": 0, "max_new_tokens": 8}
    reply = engine.ask(SAID, None, via="transcript", **greedy)
    assert reply.transcript == engine.transcribe(SAID).text
    assert reply.token_ids == engine.ask(None, reply.transcript, **greedy).token_ids


def test_a_weight_below_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rescoring_weight"):
        InferenceConfig.of({"transcribe": {"rescoring_weight": -1.0}})
