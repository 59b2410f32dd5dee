"""A model's folder may be anybody's: none of its code runs, what is wrong is told in one line, and soon."""

from __future__ import annotations

import ast
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from soundwave.checkpoints.loading import load_checkpoint, load_speech_encoder
from soundwave.checkpoints.lora import attach_lora
from soundwave.checkpoints.native import new_config, save_trained
from soundwave.errors import CheckpointError
from soundwave.export.huggingface import export
from soundwave.model.soundwave import SoundwaveForConditionalGeneration

PACKAGE = Path(__file__).parents[1] / "src" / "soundwave"
LORA_CONFIG = Path("lora", "adapter_config.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model of our format, with a LoRA and whitening."""
    folder = tmp_path_factory.mktemp("made") / "model"
    config = tiny.config(alignment_whitening=True)
    model = tiny.model(config)
    attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
    model.save_pretrained(folder)
    tiny.processor(config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "model")


def change(folder: Path, file: str | Path, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# No code of a folder runs


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_call_that_could_run_a_folders_code_forbids_it(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("from_pretrained", "from_config"):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            told = given.get("trust_remote_code")
            assert isinstance(told, ast.Constant), f"{path}:{node.lineno}"
            assert told.value is False, f"{path}:{node.lineno}"


CODE = "open({mark!r}, 'w').close()\nclass Evil: pass\n"
ASK = """
import sys
from pathlib import Path
import torch
from soundwave.checkpoints.loading import load_checkpoint
from soundwave.errors import CheckpointError
try:
    load_checkpoint(Path(sys.argv[1]), "cpu", torch.float32)
except CheckpointError as error:
    assert "\\n" not in str(error)
print("left:", sys.stdin.read())
"""
AUTO_MAP = {
    "tokenizer_config.json": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    "config.json": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"},
    "processor_config.json": {"AutoProcessor": "evil.Evil", "AutoFeatureExtractor": "evil.Evil"},
    "generation_config.json": {"GenerationConfig": "evil.Evil"},
}


def test_code_beside_the_weights_is_neither_run_nor_asked_about(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    for file, auto_map in AUTO_MAP.items():
        change(folder, file, auto_map=auto_map)
    change(folder, "tokenizer_config.json", tokenizer_class="Evil")
    config = json.loads((folder / "config.json").read_text())
    change(folder, "config.json", text_config=config["text_config"] | {"auto_map": AUTO_MAP["config.json"]})
    done = subprocess.run(
        [sys.executable, "-c", ASK, folder], input="y\ny\ny\n", capture_output=True, text=True, check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.stdout == "left: y\ny\ny\n\n"  # nobody read the answers
    assert not mark.exists()


# What is wrong is told in one line

DEEP = "[" * 100_000


def drop(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def spoil(name: str, value: float, file: str = "model.safetensors") -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / file)
        tensors[name].view(-1)[1] = value
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return apply


def text_config(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(folder, "config.json", text_config=config["text_config"] | values)

    return apply


def extractor(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "processor_config.json").read_text())
        inner = config["feature_extractor"] | values
        change(folder, "processor_config.json", feature_extractor=inner)

    return apply


def lora(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, LORA_CONFIG, **values)


Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
WEIGHTS = "lora/adapter_model.safetensors"
MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a deep config": (lambda f: (f / "config.json").write_text(DEEP), "config.json is not valid JSON"),
    "a deep tokenizer": (lambda f: (f / "tokenizer.json").write_text(DEEP), "no processor and tokenizer that transf"),
    "a deep generation config": (lambda f: (f / "generation_config.json").write_text(DEEP), "no generation_config"),
    "a deep LoRA": (lambda f: (f / LORA_CONFIG).write_text(DEEP), "LoRA in .* does not fit"),
    "no UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff{}"), "config.json is not valid JSON"),
    "a mistyped tokenizer": (lambda f: (f / "tokenizer.json").write_text("[1]"), "no processor and tokenizer that"),
    "a mistyped switch": (lambda f: change(f, "config.json", ctc_head=[1]), r"ctc_head is \[1\]; give one of"),
    "a mistyped vocabulary": (lambda f: change(f, "config.json", ctc_vocabulary=["a"]), r"ctc_vocabulary is \[.a.\]"),
    "an unknown LLM": (text_config(model_type="zebra"), "of model_type 'zebra'"),
    "an LLM of no type": (text_config(model_type=7), "of model_type 7"),
    "an LLM that cannot be built": (text_config(num_attention_heads=0), "config"),
    "hop_length 0": (extractor(hop_length=0), "ZeroDivisionError|hop_length is 0"),
    "hop_length 80": (extractor(hop_length=80), "hop_length is 80, but this model's encoder needs 160"),
    "no number": (spoil("alignment.norm.weight", float("nan")), "alignment.norm.weight holds values that are no"),
    "infinite": (spoil("audio_tower.conv1.weight", float("inf")), "audio_tower.conv1.weight holds values that are no"),
    "no number in the LoRA": (spoil(Q_A, float("nan"), WEIGHTS), "holds values that are no numbers"),
    "no LoRA": (lambda f: shutil.rmtree(f / "lora"), "lora lacks adapter_config.json"),
    "no whitening": (drop("alignment.frame_whitener"), "lacks alignment.frame_whitener, which config.json asks for"),
    "a million layers": (text_config(num_hidden_layers=10**6), "num_hidden_layers is 1000000; give a whole number"),
    "more layers than weights": (text_config(num_hidden_layers=900), "asks for 900 of language_model, the weights"),
    "a huge width": (text_config(hidden_size=4_000_000), "alignment.project.weight has the shape"),
    "copied layers": (lora(layer_replication=[[0, 2], [0, 900000]]), "it sets layer_replication"),
    "code to import": (lora(megatron_config={"a": 1}, megatron_core="this"), "it sets megatron_"),
    "a pattern": (lora(target_modules="(((a+)+)+)+$"), "target_modules is a pattern"),
    "a pattern as a name": (lora(target_modules=["(a+)+$"]), "names modules by a pattern"),
    "a pattern of ranks": (lora(rank_pattern={"(a+)+$": 4}), "names modules by a pattern"),
    "a pattern to leave out": (lora(exclude_modules="(a+)+$"), "names modules by a pattern"),
    "a rank without weights": (lora(r=10**6), r"its configuration has rank 1000000, its weights \[4\]"),
    "a rank that is none": (lora(r="x"), "LoRA in .* does not fit"),
    "no LoRA at all": (lora(peft_type="IA3"), "LoRA in .* does not fit"),
    "an index elsewhere": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret"}}'),
        "names '../../secret', which is no file of this folder",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_file_is_told_in_one_line(mistake: str, folder: Path) -> None:
    break_it, message = MISTAKES[mistake]
    break_it(folder)
    with pytest.raises(CheckpointError, match=message) as told:
        load_checkpoint(folder, "cpu", torch.float32)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 800


def test_the_speech_encoder_is_read_as_carefully(folder: Path) -> None:
    for break_it, message in (MISTAKES["no whitening"], MISTAKES["no number"], MISTAKES["hop_length 80"]):
        broken = shutil.copytree(folder, folder.with_name("broken"))
        break_it(broken)
        with pytest.raises(CheckpointError, match=message):
            load_speech_encoder(broken, "cpu", torch.float32)
        shutil.rmtree(broken)


def test_merges_that_belong_to_the_model_are_missed(tmp_path: Path) -> None:
    config = tiny.config(ctc_vocabulary=[40, 41, 42], ctc_merges=2)
    tiny.model(config).save_pretrained(tmp_path)
    tiny.processor(config).save_pretrained(tmp_path)
    drop("shrinking.merges")(tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks shrinking\.merges, which config.json asks for"):
        load_checkpoint(tmp_path, "cpu", torch.float32)


def test_transformers_own_way_of_loading_misses_the_lora_too(folder: Path) -> None:
    shutil.rmtree(folder / "lora")
    with pytest.raises(CheckpointError, match=r"lacks the folder lora/, which config\.json says belongs to it"):
        SoundwaveForConditionalGeneration.from_pretrained(folder)


def test_large_values_of_half_precision_are_numbers() -> None:
    from soundwave.checkpoints.weights import is_finite

    assert is_finite(torch.full((5_000,), 3e38))  # whose sum is not
    assert is_finite(torch.full((5_000,), 65_504.0, dtype=torch.float16))
    assert not is_finite(torch.tensor([1.0, float("nan")], dtype=torch.bfloat16))
    assert is_finite(torch.tensor([1, 2]))


# What is written can be read by those whom the umask lets


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_every_file_of_a_saved_model_follows_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        encoder, language_model = tiny.part_folders(tmp_path / "parts")
        model = tiny.model(new_config(str(encoder), str(language_model), alignment_heads=4, look_back_heads=4))
        attach_lora(model, 4, 8, 0.0, ["q_proj"])
        save_trained(model, tmp_path / "trained", torch.float32)
        export(str(tmp_path / "trained"), tmp_path / "whole")
    finally:
        os.umask(before)
    files = [path for name in ("trained", "whole") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert len(files) > 8
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {
        path.name: 0o666 & ~umask for path in files
    }
