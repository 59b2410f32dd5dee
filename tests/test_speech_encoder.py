"""The speech encoder by itself: the same as in the whole model, without any of the LLM's layers."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from public_sizes import LLAMA_3_1_8B, WHISPER_LARGE_V2

from soundwave.checkpoints import weights
from soundwave.checkpoints.loading import load_checkpoint, load_speech_encoder
from soundwave.checkpoints.native import new_config, save_trained
from soundwave.checkpoints.released import released_config
from soundwave.checkpoints.weights import empty_encoder
from soundwave.model.speech_encoder import SpeechEncoder
from soundwave.text.ctc_tokenizer import merge_table

CLIPS = [tiny.sound(1.3, 4), tiny.sound(0.4, 5)]
SPELLING = sorted(tiny.chat_tokenizer().convert_tokens_to_ids(["Ġ", "t", "h", "e", "a", "c"]))
MERGES = merge_table(tiny.chat_tokenizer(), SPELLING)


def whole(folder: Path) -> Path:
    tiny.model().save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


def over_parts(folder: Path) -> Path:
    encoder, language_model = tiny.part_folders(folder / "parts")
    model = tiny.model(new_config(str(encoder), str(language_model), alignment_heads=4, look_back_heads=4))
    save_trained(model, folder / "trained", torch.float32)
    return folder / "trained"


def over_a_released_model(folder: Path) -> Path:
    released = tiny.released_folder(folder / "released")
    model, _, inference = load_checkpoint(released, "cpu", torch.float32)
    model.config.audio_tower_source = model.config.language_model_source = str(released)
    save_trained(model, folder / "tuned", torch.float32, inference)
    return folder / "tuned"


@pytest.fixture(scope="module", params=[whole, over_parts, tiny.released_folder, over_a_released_model])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("made") / "model")


def same(ours: Any, theirs: Any) -> bool:
    tensors = ("embeddings", "ctc_logits", "token_ids", "run_token_ids", "sizes", "valid", "aligned")
    return all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in tensors)


def test_alone_it_gives_what_it_gives_in_the_whole_model_and_reads_no_other_tensor_of_the_llm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    placed = weights.set_module_tensor_to_device

    def keep(model: Any, name: str, *arguments: Any, **options: Any) -> None:
        read.append(name)
        placed(model, name, *arguments, **options)

    monkeypatch.setattr(weights, "set_module_tensor_to_device", keep)
    encoder, processor, inference = load_speech_encoder(folder, "cpu", torch.float32)
    table = ["token_table.weight"] if encoder.config.needs_token_table else []
    assert [name for name in read if not name.startswith(("audio_tower.", "alignment.", "shrinking."))] == table
    assert {name.split(".")[0] for name, _ in encoder.named_parameters()} == {
        "audio_tower", "alignment", "shrinking", *(name.split(".")[0] for name in table),
    }
    model, processor_of_all, inference_of_all = load_checkpoint(folder, "cpu", torch.float32)
    assert inference == inference_of_all == processor.inference
    features = processor.features(CLIPS)
    assert torch.equal(features["input_features"], processor_of_all.features(CLIPS)["input_features"])
    assert same(encoder(**features), model.encode_speech(**features))
    assert not encoder.training
    assert (encoder.device, encoder.dtype) == (torch.device("cpu"), torch.float32)


def test_in_the_whole_model_it_shares_every_weight_and_adds_no_name() -> None:
    model = tiny.model()
    names = set(model.state_dict())
    theirs = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in model.speech_encoder.parameters()} < theirs
    assert set(model.state_dict()) == names
    assert {name.split(".")[0] for name in names} == {"audio_tower", "alignment", "shrinking", "language_model"}


def test_each_position_says_which_tokens_it_stands_for_and_when() -> None:
    config = tiny.config(ctc_vocabulary=SPELLING, ctc_merges=len(MERGES))
    model = tiny.model(config)
    model.shrinking.merges.copy_(torch.tensor(MERGES))
    features = tiny.processor(config).features(CLIPS)
    model.alignment.norm.bias.sub_(model.encode_speech(**features).aligned.mean((0, 1)))
    speech = model.double().encode_speech(**features)
    assert (speech.sizes > 1).any()
    joins = {merged: (left, right) for left, right, merged in MERGES}

    def spelt(token: int) -> list[int]:
        return [token] if token not in joins or token in SPELLING else [p for part in joins[token] for p in spelt(part)]

    for read, joined in zip(speech.ctc_tokens(), speech.ctc_tokens(joined=True), strict=True):
        assert [part for token in joined for part in token.parts] == [token.id for token in read]
        assert all(list(token.parts) == spelt(token.id) for token in joined)
        ends = iter(read)
        for token in joined:
            parts = [next(ends) for _ in token.parts]
            assert (token.start, token.end) == (parts[0].start, max(part.end for part in parts))
            assert token.end > token.start >= 0
    kept = [len(row) for row in speech.kept()]
    assert speech.positions.mask.sum(1).tolist() == kept


def test_log_probabilities_are_of_each_clips_own_frames() -> None:
    model, processor = tiny.model(), tiny.processor()
    together = model.encode_speech(**processor.features(CLIPS))
    for row, logprobs in enumerate(together.ctc_logprobs()):
        assert logprobs.shape == (int(together.valid[row].sum()), model.config.ctc_classes)
        torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(len(logprobs)))


def test_the_front_end_of_the_public_9b_is_built_without_its_llm() -> None:
    encoder = empty_encoder(released_config(LLAMA_3_1_8B, WHISPER_LARGE_V2))
    counts: Counter[str] = Counter()
    for name, parameter in encoder.named_parameters():
        assert parameter.is_meta
        counts[name.split(".")[0]] += parameter.numel()
    assert {part: round(count / 1e6, 1) for part, count in counts.items()} == {
        "audio_tower": 636.8, "alignment": 670.1, "shrinking": 67.1,
    }
    assert not any("Llama" in type(module).__name__ for module in encoder.modules())


PEAK = """
import re, sys, torch
from pathlib import Path
from soundwave.checkpoints import loading

getattr(loading, sys.argv[1])(Path(sys.argv[2]), "cpu", torch.float32)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
import gc
layers = sum(isinstance(one, LlamaDecoderLayer) for one in gc.get_objects())
# not ru_maxrss: on Linux a new process's begins at its parent's
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], layers)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's own peak is read from /proc")
def test_minis_encoder_takes_less_memory_and_makes_no_layer_of_the_llm() -> None:
    mini = Path(__file__).parents[1] / "models" / "soundwave-mini"
    peaks = {}
    for name in ("load_speech_encoder", "load_checkpoint"):
        done = subprocess.run([sys.executable, "-c", PEAK, name, mini], capture_output=True, text=True, check=True)
        peaks[name] = [int(word) for word in done.stdout.split()]
    assert peaks["load_speech_encoder"][1] == 0
    assert peaks["load_checkpoint"][0] - peaks["load_speech_encoder"][0] > 300_000  # KiB: of 30 layers in float32


def test_minis_encoder_alone_gives_what_it_gives_in_the_whole_model() -> None:
    mini = Path(__file__).parents[1] / "models" / "soundwave-mini"
    encoder, processor, _ = load_speech_encoder(mini, "cpu", torch.float32)
    model, _, _ = load_checkpoint(mini, "cpu", torch.float32)
    assert isinstance(encoder, SpeechEncoder)
    features = processor.features(CLIPS)
    assert same(encoder(**features), model.encode_speech(**features))
