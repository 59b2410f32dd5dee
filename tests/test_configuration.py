"""One configuration: what it derives, what it keeps, and which settings it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from transformers import AutoConfig, LlamaConfig, Qwen2Config, WhisperConfig

from soundwave.configuration import PRESETS, SWITCHES, SoundwaveConfig, split_model_settings
from soundwave.errors import ConfigurationError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("switches", "tokens", "blank", "classes"),
    [
        ({}, 273, 273, 274),  # the whole LLM vocabulary, then the blank
        ({"ctc_vocabulary": [5, 7, 9]}, 3, 3, 4),
        (  # the released models': a token of the LLM is the blank
            {"ctc_blank_id": 272, "ctc_head": "projection", "audio_embedding": "look_back"}, 273, 272, 273,
        ),
    ],
)
def test_ctc_classes_and_their_blank(switches: dict[str, Any], tokens: int, blank: int, classes: int) -> None:
    config = tiny.config(**switches)
    assert (config.ctc_tokens, config.blank_class, config.ctc_classes) == (tokens, blank, classes)


@pytest.mark.parametrize(("frames", "seconds"), [(1, 0.02), (2, 0.04), (4, 0.08)])
def test_an_aligned_frame_lasts_as_long_as_its_group(frames: int, seconds: float) -> None:
    assert tiny.config(frames_per_group=frames).seconds_per_frame == pytest.approx(seconds)


def test_the_placeholder_lies_after_the_llms_tokens_unless_named() -> None:
    assert tiny.config().audio_token_id == tiny.llama_config().vocab_size
    assert tiny.config(audio_token_id=7).audio_token_id == 7


def test_new_models_have_what_was_measured_to_be_better_and_the_papers_recipe_has_the_papers() -> None:
    new = SoundwaveConfig(audio_config=tiny.whisper_config(), text_config=tiny.llama_config())
    assert (new.alignment_whitening, new.alignment_convolution) == (True, 7)  # docs/switches.md
    for stage in (1, 2, 3):
        recipe = yaml.safe_load((ROOT / "recipes" / "paper" / f"stage{stage}.yaml").read_text(encoding="utf-8"))
        assert recipe["model"]["alignment_whitening"] is False
        assert recipe["model"]["alignment_convolution"] == 0


QWEN = Qwen2Config(hidden_size=32, num_attention_heads=4, vocab_size=9)


@pytest.mark.parametrize("text", [tiny.llama_config(), QWEN])
def test_a_configuration_survives_its_json(text: Any, tmp_path: Path) -> None:
    written = SoundwaveConfig(
        audio_config=tiny.whisper_config(), text_config=text, alignment_heads=4, look_back_heads=4, run_pooling="peak",
        ctc_vocabulary=[1, 2, 3], window_tail_seconds=0.25, language_model_source="a-part",
    )
    written.save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(read, SoundwaveConfig)
    assert isinstance(read.audio_config, WhisperConfig)
    assert type(read.text_config) is type(text)
    assert read.to_dict() | {"_name_or_path": ""} == written.to_dict()


def test_without_sub_configurations_it_is_a_whisper_and_a_llama() -> None:
    config = SoundwaveConfig()
    assert isinstance(config.audio_config, WhisperConfig)
    assert isinstance(config.text_config, LlamaConfig)


@pytest.mark.parametrize("switch", [name for name, one in SWITCHES.items() if one.metadata["choices"]])
def test_an_unknown_choice_is_refused_with_the_known_ones(switch: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{switch} is 'sideways'; give one of \w+"):
        tiny.config(**{switch: "sideways"})


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"alignment_heads": 5}, "alignment_heads=5 does not divide the LLM's width 32; choose a divisor"),
        ({"alignment_heads": 0}, "alignment_heads is 0; give a whole number of at least 1"),
        ({"alignment_layers": 1.5}, "alignment_layers is 1.5; give a whole number"),
        ({"alignment_layers": 10**6}, "alignment_layers is 1000000; give a whole number of at least 0 and"),
        ({"alignment_ffn_dim": -3}, "alignment_ffn_dim is -3; give a whole number of at least 1"),
        ({"alignment_dropout": 2.0}, "alignment_dropout is 2.0; give a number of at least 0 and below 1"),
        ({"text_config": {"model_type": "zebra"}}, "text_config is not one .* of model_type 'zebra'"),
        ({"text_config": {"num_hidden_layers": 10**6}}, "num_hidden_layers is 1000000; give a whole number, 1 to 1000"),
        ({"text_config": {"hidden_size": "wide"}}, "hidden_size|text_config is not one"),
        ({"audio_config": [1]}, r"audio_config is \[1\]; give an object"),
        ({"look_back_heads": 3}, "look_back_heads=3 does not divide the LLM's width 32"),
        ({"frames_per_group": 7}, "frames_per_group=7 does not divide the encoder's 1500 frames"),
        ({"frames_per_group": 0}, "frames_per_group is 0; give a whole number of at least 1"),
        ({"ctc_vocabulary": [1, 2, 1]}, "ctc_vocabulary names a token twice"),
        ({"ctc_vocabulary": [1, 273]}, r"the id 273, outside the LLM's vocabulary of 273 tokens \(0 to 272\)"),
        ({"ctc_vocabulary": [-1]}, "the id -1, outside the LLM's vocabulary"),
        ({"ctc_blank_id": 5}, "ctc_blank_id=5 makes a token the blank, which only ctc_head=projection"),
        ({"ctc_blank_id": 273, "ctc_head": "projection"}, "ctc_blank_id=273 is none of the 273 CTC classes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(switches: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tiny.config(**switches)


def test_the_released_quirks_are_one_preset() -> None:
    released = SoundwaveConfig.preset(
        "released", audio_config=tiny.whisper_config(), text_config=tiny.llama_config(), alignment_heads=4,
        look_back_heads=4,
    )
    new = tiny.config()
    assert {name: getattr(released, name) for name in PRESETS["released"]} == PRESETS["released"]
    assert not released.needs_token_table
    assert new.needs_token_table
    with pytest.raises(ConfigurationError, match="'relased' is not a known setting; did you mean released"):
        SoundwaveConfig.preset("relased")


def test_nothing_in_a_configuration_runs_code_or_fetches_kernels() -> None:
    hostile = {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "attn_implementation": "org/kernel"}
    config = tiny.config(text_config=tiny.llama_config().to_dict() | hostile)
    assert not hasattr(config.text_config, "auto_map")
    assert config.text_config._attn_implementation != "org/kernel"


def test_settings_of_a_recipe_go_to_their_file() -> None:
    config, inference = split_model_settings(
        {"ctc_merges": 3, "answer_prompt": None, "transcribe": {"beams": 4}, "audio_system_prompt": ""}
    )
    assert config == {"ctc_merges": 3}
    assert inference == {
        "answer_prompt": None, "via": "audio", "transcribe": {"beams": 4}, "audio_system_prompt": "",
    }
    # of older versions: what they mean today
    assert split_model_settings({"joint_ctc_weight": 0.4, "word_list": "none", "answer_prompt": "Answer."}) == (
        {}, {"via": "transcript", "answer_prompt": "Answer."}
    )
    assert split_model_settings({"joint_ctc_weight": 0}) == ({}, {})


@pytest.mark.parametrize(
    ("name", "near"), [("alignment_hads", "alignment_heads"), ("anser_prompt", "answer_prompt"), ("lora", "known are")]
)
def test_a_misspelt_setting_of_a_recipe_is_told_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' is not a known setting; .*{near}"):
        split_model_settings({name: 1})
