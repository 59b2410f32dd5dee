"""Prompts and weights of scores: one file beside the model, and what older files meant."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tiny

from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.inference_config import DELETED, MOVED, RELEASED, InferenceConfig

MINI = Path(__file__).parents[1] / "models" / "soundwave-mini"
OLD = {  # as older versions wrote it
    "prompt_format": "chat_template", "text_only": "plain", "audio_system_prompt": "", "transcribe_prompt": "Write.",
    "answer_prompt": "Answer.", "default_prompt": "Answer.", "transcript_prefixes": ["It says: "],
    "joint_ctc_weight": 0.4, "word_list": "english", "rescoring_weight": 0.5, "rewording_weight": 0.6,
}


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = InferenceConfig.of({
        "via": "transcript", "transcript_prefixes": ["It says: "],
        "transcribe": {"ngram": "ngram.arpa", "search": {"beams": 9}},
    })
    written.write(tmp_path)
    assert InferenceConfig.read(tmp_path) == written


def test_without_a_file_it_has_its_defaults(tmp_path: Path) -> None:
    assert InferenceConfig.read(tmp_path) == InferenceConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"anser_prompt": "x"}, "'anser_prompt' is not a known setting; did you mean answer_prompt"),
        ({"transcribe": {"search": {"beam": 3}}}, "'transcribe.search.beam' .* did you mean transcribe.search.beams"),
        ({"transcribe": {"search": {"beams": 0}}}, "transcribe.search.beams is 0; give a whole number of at least 1"),
        ({"transcribe": 3}, "transcribe is 3; give a mapping"),
        ({"via": "ear"}, "via is 'ear'; give one of audio, transcript"),
        ({"default_prompt": None}, "default_prompt is None; give a text"),
        ({"transcript_prefixes": [1]}, r"transcript_prefixes is \(1,\); give a list"),
        ({"transcribe": {"ngram": "../../etc/passwd"}}, "transcribe.ngram is '../../etc/passwd'; give the name"),
        ({"transcribe": {"words": "/etc/passwd"}}, "transcribe.words is '/etc/passwd'; give the name of a file"),
    ],
)
def test_a_mistake_is_told(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        InferenceConfig.of(values)
    (tmp_path / "inference.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"inference.json: {message}"):
        InferenceConfig.read(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, "\ud800", '{"via": '])
def test_a_broken_file_is_told_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "inference.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(CheckpointError, match=r"inference\.json (is not valid JSON|holds a list, not an)") as told:
        InferenceConfig.read(tmp_path)
    assert "\n" not in str(told.value)


def test_older_files_are_translated_and_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny.config().to_dict() | OLD))
    with caplog.at_level(logging.WARNING):
        read = [InferenceConfig.read(tmp_path) for _ in range(2)]
    assert read[0] == read[1]
    assert {name: getattr(read[0], name) for name in MOVED} == {
        name: tuple(OLD[name]) if name == "transcript_prefixes" else OLD[name] for name in MOVED  # type: ignore[arg-type]
    }
    assert read[0].via == "transcript"  # an answer prompt was one that words were found for
    assert read[0].transcribe == InferenceConfig().transcribe
    (said,) = caplog.messages
    assert all(name in said for name in (str(tmp_path / "config.json"), "inference.json", *DELETED))
    config = SoundwaveConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))
    assert not set(config.to_dict()) & {*MOVED, *DELETED}


def test_a_model_that_was_not_made_for_the_old_search_lets_its_llm_transcribe(tmp_path: Path) -> None:
    old = OLD | {"joint_ctc_weight": 0.0, "answer_prompt": None}
    (tmp_path / "config.json").write_text(json.dumps(old))
    read = InferenceConfig.read(tmp_path)
    assert (read.via, read.transcribe.llm, read.transcribe.ngram) == ("audio", True, None)


def test_the_released_model_writes_its_transcripts_itself() -> None:
    assert (RELEASED.prompt_format, RELEASED.text_only, RELEASED.via) == ("released", "adapted", "audio")
    assert (RELEASED.transcribe.llm, RELEASED.transcribe.ngram) == (True, None)


def test_mini_has_its_own_file_and_nothing_old(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        mini = InferenceConfig.read(MINI)
    assert caplog.messages == []
    assert (mini.via, mini.answer_prompt) == ("transcript", "Please answer the question that the person asks.")
    config = json.loads((MINI / "config.json").read_text())
    assert config["lora"] is True
    assert not set(config) & {*MOVED, *DELETED}
    known = {one.name for one in dataclasses.fields(InferenceConfig)}
    assert set(json.loads((MINI / "inference.json").read_text())) == known
