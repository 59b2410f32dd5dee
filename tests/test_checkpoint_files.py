"""Reading a model's folder: what may be missing, what may not, what it costs, and what a person is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from public_sizes import LLAMA_3_1_8B, WHISPER_LARGE_V2
from safetensors.torch import load_file, save_file

from soundwave.checkpoints.loading import load_checkpoint
from soundwave.checkpoints.lora import attach_lora
from soundwave.checkpoints.released import released_config
from soundwave.checkpoints.weights import empty_model
from soundwave.errors import CheckpointError

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.released_folder(tmp_path_factory.mktemp("made") / "released")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "native"
    tiny.model().save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    return load_checkpoint(folder, "cpu", torch.float32)[:2]


def same_weights(one: Any, other: Any) -> bool:
    theirs = dict(other.named_parameters())
    return all(torch.equal(value, theirs[name]) for name, value in one.named_parameters())


# The same weights, laid out differently


def shard(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("kind", ["released", "native"])
def test_shards_and_their_index_are_one_checkpoint(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    whole = request.getfixturevalue(kind)
    folder = shutil.copytree(whole, tmp_path / "sharded")
    shard(folder)
    assert same_weights(load(folder)[0], load(whole)[0])


def test_without_the_encoders_configuration_its_sizes_come_from_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "ENCODER_WIDTH", 128)  # two heads of 64, as in every published Whisper
    folder = tiny.released_folder(tmp_path / "released")
    clip = tiny.sound(1.5)
    told, processor = load(folder)
    expected = told.encode_speech(**processor.features([clip])).embeddings
    shutil.rmtree(folder / "audio_tower")
    derived, processor = load(folder)
    assert torch.equal(derived.encode_speech(**processor.features([clip])).embeddings, expected)


def test_a_generation_configuration_in_the_folder_is_used(released: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(released, tmp_path / "released")
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    model, _ = load(folder)
    assert model.language_model.generation_config.eos_token_id == [7, 8]
    assert model.language_model.generation_config.pad_token_id == tiny.released_config()["llm_pad_token_id"]


# What a person is told


def change(tensors: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        save_file(tensors(load_file(folder / WEIGHTS)), folder / WEIGHTS)

    return apply


def without(name: str) -> Callable[[Path], None]:
    return change(lambda tensors: {key: value for key, value in tensors.items() if key != name})


def with_config(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | values
        kept = {key: value for key, value in config.items() if value != "absent"}
        (folder / "config.json").write_text(json.dumps(kept))

    return apply


def cut_off(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def only_pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def index_of_nothing(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


CONV = "model.audio_tower.conv1.weight"
MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another model": (
        with_config(model_type="qwen2_audio"),
        r"config.json has the model_type 'qwen2_audio'; Soundwave reads 'soundwave' \(its own format\) and 'Soundwave' "
        r"\(the released 9B format\)",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json, so it holds no model"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
    "config a list": (lambda folder: (folder / "config.json").write_text("[]"), "config.json holds a list, not an obj"),
    "bare config": (with_config(audio_patch_token="absent"), "config.json lacks 'audio_patch_token'"),
    "other sizes": (
        with_config(vocab_size=400),
        r"has the shape \(\d+, 32\), but the configuration asks for \(400, 32\); config.json and weights do not belong",
    ),
    "a tensor missing": (
        without("model.norm.weight"), "lacks 1 tensors that the model needs, language_model.model.norm.weight first",
    ),
    "an adapter missing": (
        without("model.asr_transformer_encoder.layers.0.linear1.weight"),
        "The weights lack model.asr_transformer_encoder.layers.0.linear1.weight; this is no complete checkpoint",
    ),
    "a tensor too many": (
        change(lambda tensors: tensors | {"model.vision.weight": torch.zeros(1)}),
        "holds the tensor model.vision.weight, which this model does not have",
    ),
    "pickled only": (only_pickled, r"holds no \*.safetensors; pytorch_model.bin is pickled and is never opened"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"holds no \*.safetensors\.$"),
    "cut off": (cut_off, r"model.safetensors is not an intact safetensors file \(.*\); download it again"),
    "a shard missing": (
        index_of_nothing, "lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names",
    ),
    "a broken index": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "is not a readable index of weights",
    ),
    "no tokenizer": (no_tokenizer, "has no tokenizer that transformers can read"),
    "an unknown encoder": (
        lambda folder: shutil.rmtree(folder / "audio_tower"),
        "The encoder is 16 wide, unlike any published Whisper, so its number of heads cannot be told",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_folder_that_cannot_be_read_is_refused_by_name(mistake: str, released: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(released, tmp_path / "released")
    spoil, message = MISTAKES[mistake]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_config(frames_per_group=4), "alignment.project.weight has the shape .* do not belong together"),
        (without("shrinking.norm.bias"), "lacks 1 tensors that the model needs, shrinking.norm.bias first"),
        (change(lambda t: t | {"extra": torch.zeros(1)}), "holds the tensor extra, which this model does not have"),
        (cut_off, "model.safetensors is not an intact safetensors file"),
    ],
)
def test_our_own_format_is_as_strict(
    native: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(native, tmp_path / "native")
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


# Size and memory

PEAK = """
import resource, sys, torch
from pathlib import Path
from soundwave.checkpoints.loading import load_checkpoint

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
model, _, _ = load_checkpoint(Path(sys.argv[1]), "cpu", getattr(torch, sys.argv[2]))
size = sum(value.numel() * value.element_size() for value in model.parameters())
touched = sum(float(value.sum()) for value in model.parameters())
print((peak() - before) / size, size)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 MB in float32."""
    settings = tiny.released_config() | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "released_config", lambda: settings)
        return tiny.released_folder(tmp_path_factory.mktemp("large") / "released")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_never_holds_two_copies(large: Path, dtype: str) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, large, dtype], capture_output=True, text=True, check=True)
    copies, size = (float(word) for word in done.stdout.split())
    assert size > 40e6
    assert copies < 1.5  # of the model in the asked type, the largest tensor and the interpreter's growth included


def test_the_public_models_sizes_are_the_papers() -> None:
    model = empty_model(released_config(LLAMA_3_1_8B, WHISPER_LARGE_V2))
    attach_lora(model, 64, 16, 0.05, ["q_proj", "k_proj", "v_proj", "o_proj"])
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        assert parameter.is_meta
        kinds = {"lora_": "LoRA", "ctc_": "CTC head", "embed_positions": "sinusoids"}  # the paper counts no sinusoids
        part = next((kind for stem, kind in kinds.items() if stem in name), name.split(".")[0])
        counts[part] += parameter.numel()
    # The paper's table: 635M, 144M, 525M, 67M, 8B, and 54.5M of LoRA.
    assert {part: round(count / 1e6, 1) for part, count in counts.items()} == {
        "audio_tower": 634.9, "sinusoids": 1.9, "alignment": 144.8, "CTC head": 525.3, "shrinking": 67.1,
        "language_model": 8030.3, "LoRA": 54.5,
    }
