"""LoRA apart, merged or several; and any model as one Hugging Face folder with the same answers."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import soundfile
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, LlamaForCausalLM

from soundwave.checkpoints.loading import load_checkpoint
from soundwave.checkpoints.lora import (
    attach_lora,
    fold_lora,
    load_lora,
    merge_lora,
    save_lora,
    unmerge_lora,
    use_lora,
)
from soundwave.checkpoints.native import load_native, new_config, save_trained
from soundwave.checkpoints.weights import fill
from soundwave.cli.app import app
from soundwave.errors import ConfigurationError, WriteError
from soundwave.export.huggingface import export, stored_dtype
from soundwave.inference.engine import Engine

DOCUMENT = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
QUESTION = [tiny.user("What does the person say?", tiny.sound(1.3, 4))]
SIZES: dict[str, Any] = {"alignment_heads": 4, "alignment_ffn_dim": 40, "look_back_heads": 4}


def add_lora(model: Any, seed: int = 3) -> None:
    attach_lora(model, 4, 8, 0.0, ["q_proj", "v_proj"])
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # halves of small numbers are exact in float16
            parameter.data.copy_(torch.randint(-3, 4, parameter.shape, generator=draw) / 2)
    model.eval()


def logits(model: Any, processor: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**processor.apply_chat_template(QUESTION)).logits


def python_under(heading: str) -> str:
    """The Python of a section of docs/recipes.md."""
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
    return block


def run_alone(code: str, folder: Path) -> list[str]:
    """Lines that a program prints: in a process of its own, which has imported nothing before."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def answer(model: Any, processor: Any) -> list[int]:
    batch = processor.apply_chat_template(QUESTION)
    return model.generate(**batch, max_new_tokens=8, do_sample=False)[0].tolist()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A trained folder over tiny parts, with a LoRA, as a run leaves it."""
    encoder, language_model = tiny.part_folders(tmp_path / "parts")
    config = new_config(str(encoder), str(language_model), **SIZES)
    fresh = tiny.model(tiny.config(tied=True))
    folder = tmp_path / "final"
    made = tiny.model(config)
    fill(made, iter(fresh.state_dict().items()), lambda n, v: [(n, v)], "cpu", torch.float32, "tiny")
    add_lora(made)
    save_trained(made, folder, torch.float32)
    return folder


@pytest.mark.parametrize("verb", [["export"], ["lora", "merge"]], ids=["apart", "merged"])
def test_an_exported_folder_answers_as_the_trained_one(verb: list[str], trained: Path, tmp_path: Path) -> None:
    before = load_native(trained, "cpu", torch.float32)
    out = tmp_path / "whole"
    app([*verb, str(trained), str(out)], standalone_mode=False)
    merged = verb != ["export"]
    assert (out / "lora").is_dir() != merged
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert answer(model, processor) == answer(*before)
    torch.testing.assert_close(logits(model, processor), logits(*before), rtol=1e-3, atol=3e-3)  # LoRA summed last
    assert model.config.lora is not merged
    again = load_checkpoint(out, "cpu", torch.float32)[:2]
    assert answer(*again) == answer(*before)


def test_the_documents_example_lets_transformers_read_an_exported_folder(trained: Path, tmp_path: Path) -> None:
    export(str(trained), tmp_path / "my-model")
    soundfile.write(tmp_path / "question.wav", tiny.sound(1.3, 4), 16_000)
    shown = "\nprint(type(model).__name__, type(processor).__name__, batch['input_ids'].shape[0])"
    told = run_alone(python_under("One folder for transformers") + shown, tmp_path)
    assert told[-1] == "SoundwaveForConditionalGeneration SoundwaveProcessor 1"


@pytest.mark.parametrize("name", ["SoundwaveForConditionalGeneration", "SoundwaveProcessor"])
def test_a_class_of_ours_makes_the_others_known_to_transformers(name: str, trained: Path, tmp_path: Path) -> None:
    export(str(trained), tmp_path / "my-model")
    code = (
        f"from soundwave import {name}\nfrom transformers import AutoConfig, AutoModel, AutoProcessor\n"
        "for auto in (AutoProcessor, AutoConfig, AutoModel): print(type(auto.from_pretrained('my-model')).__name__)"
    )
    assert run_alone(code, tmp_path) == ["SoundwaveProcessor", "SoundwaveConfig", "SoundwaveForConditionalGeneration"]


def test_the_lora_matters_in_these_tests(trained: Path) -> None:
    model, processor = load_native(trained, "cpu", torch.float32)
    adapted = logits(model, processor)
    with model.plain_language_model():
        assert not torch.allclose(logits(model, processor), adapted, atol=0.1)


def test_a_released_checkpoint_is_exported_too(tmp_path: Path) -> None:
    released = tiny.released_folder(tmp_path / "released")
    out = export(str(released), tmp_path / "ours")
    before = load_checkpoint(released, "cpu", torch.float32)[:2]
    assert answer(*load_checkpoint(out, "cpu", torch.float32)[:2]) == answer(*before)


def test_the_type_is_the_stored_one_or_the_one_asked_for(trained: Path, tmp_path: Path) -> None:
    assert stored_dtype(trained) == torch.float32  # the LLM's, not the adapters'
    half = export(str(trained), tmp_path / "half", dtype="float16")
    kept = [value.dtype for value in load_file(half / "model.safetensors").values() if value.is_floating_point()]
    assert set(kept) == {torch.float16}
    assert stored_dtype(half) == torch.float16


def test_a_merged_lora_can_be_taken_out_again() -> None:
    model, processor = tiny.model(), tiny.processor()
    add_lora(model)
    weight = model.language_model.model.layers[0].self_attn.q_proj.base_layer.weight
    apart, plain = logits(model, processor), weight.clone()
    merge_lora(model)
    assert not torch.allclose(weight, plain)
    torch.testing.assert_close(logits(model, processor), apart, rtol=1e-4, atol=1e-4)
    unmerge_lora(model)
    torch.testing.assert_close(weight, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(model, processor), apart, rtol=1e-4, atol=1e-4)


def test_a_merged_lora_is_not_saved_twice(tmp_path: Path) -> None:
    model = tiny.model()
    add_lora(model)
    merge_lora(model)
    with pytest.raises(ConfigurationError, match="merged into the weights and still attached; call unmerge_lora, or"):
        model.save_pretrained(tmp_path)


def test_a_folded_lora_leaves_a_plain_language_model() -> None:
    model, processor = tiny.model(), tiny.processor()
    names = set(model.state_dict())
    add_lora(model)
    before = logits(model, processor)
    fold_lora(model)
    assert set(model.state_dict()) == names
    assert not model.has_lora
    torch.testing.assert_close(logits(model, processor), before, rtol=1e-4, atol=1e-4)


def test_several_loras_can_be_loaded_and_chosen(tmp_path: Path) -> None:
    processor, alone = tiny.processor(), {}
    for seed, name in ((3, "english"), (4, "german")):
        model = tiny.model()
        add_lora(model, seed)
        save_lora(model, tmp_path / name)
        alone[name] = logits(model, processor)
    both = tiny.model()
    for name in alone:
        load_lora(both, tmp_path / name, name=name)
    torch.testing.assert_close(logits(both, processor), alone["german"])  # the last one loaded
    use_lora(both, "english")
    torch.testing.assert_close(logits(both, processor), alone["english"])
    use_lora(both, "english", "german")
    together = logits(both, processor)
    one_after_the_other = tiny.model()
    for name in alone:
        load_lora(one_after_the_other, tmp_path / name)
        fold_lora(one_after_the_other)
    torch.testing.assert_close(logits(one_after_the_other, processor), together, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigurationError, match="There is no LoRA 'french'; attached are english, german"):
        use_lora(both, "french")
    with pytest.raises(ConfigurationError, match="There is no LoRA 'french'; attached are none"):
        use_lora(tiny.model(), "french")


def test_a_merged_lora_is_taken_out_when_another_is_chosen_or_loaded(tmp_path: Path) -> None:
    processor, alone = tiny.processor(), {}
    for seed, name in ((3, "english"), (4, "german")):
        model = tiny.model()
        add_lora(model, seed)
        save_lora(model, tmp_path / name)
        alone[name] = logits(model, processor)
    model = tiny.model()
    load_lora(model, tmp_path / "english", name="english")
    merge_lora(model)
    load_lora(model, str(tmp_path / "german"), name="german")
    torch.testing.assert_close(logits(model, processor), alone["german"], rtol=1e-4, atol=1e-4)
    merge_lora(model)
    use_lora(model, "english")
    torch.testing.assert_close(logits(model, processor), alone["english"], rtol=1e-4, atol=1e-4)


def test_a_name_that_no_lora_has_or_can_have_is_told(tmp_path: Path) -> None:
    model = tiny.model()
    add_lora(model)
    save_lora(model, tmp_path / "lora")
    with pytest.raises(ConfigurationError, match="The LoRA name 'default' is attached already; give another `name`"):
        load_lora(model, tmp_path / "lora")
    with pytest.raises(ConfigurationError, match=r"The LoRA name 'v1\.2' must not have a dot in it"):
        load_lora(model, tmp_path / "lora", name="v1.2")
    with pytest.raises(ConfigurationError, match="There is no LoRA 'french'; attached are default"):
        save_lora(model, tmp_path / "french", "french")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a second LoRA is meant
        load_lora(model, tmp_path / "lora", name="second")


def test_the_documents_example_switches_between_loras_and_takes_them_out_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.rename(tmp_path / "english")
    (tmp_path / "runs" / "german" / "final").mkdir(parents=True)
    (tmp_path / "runs" / "english").mkdir()
    (tmp_path / "english").rename(tmp_path / "runs" / "english" / "final")
    german = tiny.model(tiny.config(tied=True))
    add_lora(german, 9)
    save_lora(german, tmp_path / "runs" / "german" / "final" / "lora")
    soundfile.write(tmp_path / "question.wav", tiny.sound(1.3, 4), 16_000)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(python_under("Several LoRAs"), names)
    replies = capsys.readouterr().out
    expected, plain = [], load_native(Path("runs/english/final"), "cpu", torch.float32)[0]
    for chosen in (["german"], ["default"], ["default", "german"]):
        model, processor, _ = load_checkpoint(Path("runs/english/final"), "cpu", torch.float32)
        load_lora(model, "runs/german/final/lora", name="german")
        use_lora(model, *chosen)
        reply = Engine.of(model, processor).ask("question.wav", "What does the person say?", via="audio", temperature=0)
        expected.append(reply.text + "\n")
    assert replies == "".join(expected)
    assert len(set(expected)) == 3
    for after, before in zip(lora_bases(names["model"]), lora_bases(plain), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def lora_bases(model: Any) -> list[torch.Tensor]:
    """The weights that LoRA may be merged into."""
    return [value for name, value in model.named_parameters() if name.endswith("base_layer.weight")]


def test_more_loras_are_merged_in_their_order(trained: Path, tmp_path: Path) -> None:
    other = tiny.model(tiny.config(tied=True))
    add_lora(other, 9)
    save_lora(other, tmp_path / "other")
    model, processor = load_native(trained, "cpu", torch.float32)
    fold_lora(model)
    load_lora(model, tmp_path / "other")
    app(["lora", "merge", str(trained), str(tmp_path / "o"), "--lora", str(tmp_path / "other")], standalone_mode=False)
    assert answer(*load_checkpoint(tmp_path / "o", "cpu", torch.float32)[:2]) == answer(model, processor)


def test_peft_itself_reads_the_lora_of_a_trained_folder(trained: Path, tmp_path: Path) -> None:
    ours, _ = load_native(trained, "cpu", torch.float32)
    plain = LlamaForCausalLM.from_pretrained(tmp_path / "parts" / "tiny-llm")
    theirs = PeftModel.from_pretrained(plain, trained / "lora").eval()
    ids = torch.tensor([[5, 9, 30, 41]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=ids).logits, ours.language_model(input_ids=ids).logits)


def test_an_exported_language_model_is_one_of_transformers(trained: Path, tmp_path: Path) -> None:
    out = export(str(trained), tmp_path / "whole", merge=True)
    assert AutoModelForCausalLM.from_pretrained(out).language_model.__class__ is LlamaForCausalLM


def test_a_mistake_is_told(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WriteError, match="parts is there already; give a folder that is new or empty"):
        export(str(trained), tmp_path / "parts")
    with pytest.raises(ConfigurationError, match="dtype='int3' is not known; choose auto, float32, float16, bfloat16"):
        export(str(trained), tmp_path / "o", dtype="int3")
    whole = export(str(trained), tmp_path / "whole", merge=True)
    with pytest.raises(ConfigurationError, match="whole has no LoRA to merge; `soundwave export` writes it as it is"):
        export(str(whole), tmp_path / "o", merge=True)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(load_native(trained, "cpu", torch.float32)[0]), "save_pretrained", full)
    with pytest.raises(WriteError, match=r"o could not be written \(No space left on device\); free some space"):
        export(str(trained), tmp_path / "o")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "parts", "whole"]
