"""`soundwave doctor`: each thing that can be wrong with a machine is found, and told with what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, WhisperConfig

from soundwave import doctor
from soundwave.configuration import SoundwaveConfig
from soundwave.doctor import (
    Finding,
    examine,
    expected_memory,
    longest_asked,
    numbers_in,
    parameters_per_part,
)
from soundwave.model.soundwave import SoundwaveForConditionalGeneration


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOUNDWAVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def config() -> SoundwaveConfig:
    audio = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, decoder_layers=0, num_mel_bins=8
    )
    text = LlamaConfig(
        **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"intermediate_size": 64, "vocab_size": 100, "tie_word_embeddings": True},
    )
    return SoundwaveConfig(
        audio_config=audio, text_config=text, alignment_heads=4, look_back_heads=4, alignment_ffn_dim=64
    )


def found(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


# --- memory is computed, not typed in


def test_parameters_are_those_of_the_real_model(config: SoundwaveConfig) -> None:
    model = SoundwaveForConditionalGeneration(config)
    parts = parameters_per_part(config)
    assert sum(parts.values()) == sum(weight.numel() for weight in model.parameters())
    assert parts["audio_tower"] == sum(weight.numel() for weight in model.audio_tower.parameters())


def test_expected_memory_is_weights_and_cache_and_libraries(
    config: SoundwaveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "memory_of_this_process", lambda: 1000)
    # A token's keys and values: 2 x 3 layers x 2 heads x 8 wide = 96 numbers. The longest clip: 30 s / 40 ms = 750
    # positions, and 512 tokens of answer.
    numbers = 5000 + 96 * (750 + 512)
    assert expected_memory(config, 5000, "float32") == 4 * numbers + 1000
    assert expected_memory(config, 5000, "bfloat16") == 2 * numbers + 1000


def test_how_long_a_recording_may_be_is_told(config: SoundwaveConfig, tmp_path: Path) -> None:
    config.text_config.max_position_embeddings = 2048
    assert longest_asked(config, 2048) == pytest.approx((2048 - 512 - 64) * 0.04)
    config.save_pretrained(tmp_path / "model")
    told = found(examine([str(tmp_path / "model")]), f"audio {tmp_path / 'model'}")
    assert "transcribe: any length; ask --via audio: 1.0 min at least" in told.value


def test_a_model_that_does_not_fit_is_told_with_the_way_out(
    config: SoundwaveConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(doctor, "memory_of_this_process", lambda: 0)
    need = expected_memory(config, sum(parameters_per_part(config).values()), "float32")
    for share, mark, advice in ((2.0, "ok", ""), (0.8, "warn", "--dtype bfloat16"), (0.1, "warn", "smaller model")):
        monkeypatch.setattr(doctor, "memory_of_machine", lambda share=share: int(share * need))
        told = found(examine([str(tmp_path / "model")]), f"memory {tmp_path / 'model'}")
        assert told.mark == mark
        assert advice in told.advice
    assert told.details["expected_bytes"]["float32"] == need


def test_lora_weights_are_counted_by_their_headers(config: SoundwaveConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    (tmp_path / "lora").mkdir()
    save_file({"a": torch.zeros(4, 32), "b": torch.zeros(7)}, tmp_path / "lora" / "adapter_model.safetensors")
    assert numbers_in([tmp_path / "lora" / "adapter_model.safetensors"]) == 4 * 32 + 7
    told = found(examine([str(tmp_path)]), f"memory {tmp_path}")
    assert told.details["parameters"]["lora"] == 4 * 32 + 7


def test_what_a_merged_lora_takes_beside_the_weights_is_expected(
    config: SoundwaveConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    monkeypatch.setattr(doctor, "memory_of_this_process", lambda: 0)
    without = found(examine([str(tmp_path)]), f"memory {tmp_path}").details
    (tmp_path / "lora").mkdir()
    lora = {"q.lora_A.weight": torch.zeros(4, 16), "q.lora_B.weight": torch.zeros(32, 4)}
    save_file(lora, tmp_path / "lora" / "adapter_model.safetensors")
    with_lora = found(examine([str(tmp_path)]), f"memory {tmp_path}").details
    assert sum(with_lora["parameters"].values()) - sum(without["parameters"].values()) == 4 * (16 + 32)
    assert with_lora["expected_bytes"]["float32"] - without["expected_bytes"]["float32"] == 4 * (4 * 48 + 16 * 32)


def test_a_released_checkpoint_is_counted_as_it_lies_there(tmp_path: Path) -> None:
    values = {"model_type": "Soundwave", "audio_patch_token": 99, "hidden_size": 32, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 2, "vocab_size": 100}))
    save_file({"x": torch.zeros(10, 10)}, tmp_path / "model.safetensors")
    told = found(examine([str(tmp_path)]), f"memory {tmp_path}")
    assert told.details["parameters"] == {"all": 100}


# --- what can be wrong


def test_a_healthy_machine_has_versions_devices_and_threads() -> None:
    findings = examine([])
    assert [finding.name for finding in findings if finding.mark == "fail"] == []
    assert found(findings, "torch").value == torch.__version__
    assert "libavcodec" in found(findings, "FFmpeg").value
    assert "float32" in found(findings, "device cpu").value
    assert found(findings, "threads").details["used"] == torch.get_num_threads()


def test_a_broken_library_is_a_finding_not_a_crash(
    config: SoundwaveConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "av", None)
    findings = examine([str(tmp_path)])
    told = found(findings, "av")
    assert told.mark == "fail"
    assert f"memory {tmp_path}" not in [finding.name for finding in findings]  # reading the model would need it
    assert told.advice == "reinstall it: pip install --force-reinstall av"


def test_without_torch_the_rest_is_still_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    findings = examine([])
    assert found(findings, "torch").mark == "fail"
    assert found(findings, "cache").mark == "ok"


def test_one_thread_on_many_cores_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_busy", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    told = found(examine([]), "threads")
    assert (told.mark, told.value) == ("warn", "1 of 4 cores is used")
    assert "OMP_NUM_THREADS" in told.advice


def test_a_cache_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    told = found(examine([]), "cache")
    assert told.mark == "fail"
    assert str(tmp_path / "cache") in told.value
    assert "SOUNDWAVE_CACHE" in told.advice


def test_parts_that_are_not_downloaded_yet_are_told(config: SoundwaveConfig, tmp_path: Path) -> None:
    config.audio_tower_source, config.language_model_source = "whisper-base", "smollm2-135m-instruct"
    config.save_pretrained(tmp_path / "model")
    findings = examine([str(tmp_path / "model")])
    for part in ("whisper-base", "smollm2-135m-instruct"):
        told = found(findings, f"weights {part}")
        assert told.mark == "warn"
        assert "soundwave download mini" in told.advice
    assert not (tmp_path / "cache").exists()  # looking downloads nothing


def test_a_model_that_does_not_exist_is_told() -> None:
    told = found(examine(["nimi"]), "weights nimi")
    assert told.mark == "fail"
    assert "Did you mean 'mini'?" in told.advice


def test_a_model_of_the_hub_that_was_not_downloaded_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = found(examine(["some-org/never-downloaded"]), "weights some-org/never-downloaded")
    assert (told.mark, told.advice) == ("warn", "run: soundwave download some-org/never-downloaded")


def test_a_broken_config_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert found(examine([str(tmp_path)]), f"config {tmp_path}").mark == "fail"


def test_an_unused_nvidia_card_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    told = found(examine([]), "device cuda")
    assert told.mark == "warn"
    assert "CUDA build of torch" in told.advice
