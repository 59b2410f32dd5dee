"""Recordings and conversations to tensors."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny
import torch
from transformers import AutoProcessor, WhisperFeatureExtractor

from soundwave.configuration import AUDIO_TOKEN
from soundwave.errors import AudioError, AudioTooLongError, ConfigurationError
from soundwave.inference_config import InferenceConfig
from soundwave.processing import SoundwaveProcessor

SECOND = 16_000


@pytest.fixture(scope="module")
def processor() -> SoundwaveProcessor:
    return tiny.processor()


@pytest.fixture(scope="module")
def released() -> SoundwaveProcessor:
    return SoundwaveProcessor(
        WhisperFeatureExtractor(), tiny.released_tokenizer(), encoder_window="padded", prompt_format="released",
        audio_token="<audio_patch>",
    )


# Windows and features


@pytest.mark.parametrize(
    ("seconds", "window"),  # half a second more, up to a whole number of aligned frames of 40 ms
    [
        (0.0, 0.52), (0.01, 0.52), (0.4, 0.92), (1.0, 1.52), (1.02, 1.52), (1.021, 1.56), (29.4, 29.92), (29.8, 30.0),
        (30.0, 30.0),
    ],
)
def test_a_dynamic_window_is_the_audio_and_half_a_second(
    processor: SoundwaveProcessor, seconds: float, window: float
) -> None:
    assert processor.window_samples(round(seconds * SECOND)) == round(window * SECOND)


@pytest.mark.parametrize("seconds", [0.1, 3.0, 30.0])
def test_a_padded_window_is_30_seconds(released: SoundwaveProcessor, seconds: float) -> None:
    assert released.window_samples(round(seconds * SECOND)) == 30 * SECOND


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_window_is_a_whole_number_of_aligned_frames(frames: int) -> None:
    processor = tiny.processor(tiny.config(frames_per_group=frames))
    for samples in (1, 1234, 16_000, 479_999):
        assert processor.window_samples(samples) % (320 * frames) == 0


def test_log_mel_is_whispers(processor: SoundwaveProcessor, released: SoundwaveProcessor) -> None:
    clip = tiny.sound(1.7)
    whisper = WhisperFeatureExtractor()(clip, sampling_rate=SECOND, return_tensors="np").input_features[0]
    assert released.log_mel(clip).shape == (80, 3000)
    assert np.abs(released.log_mel(clip) - whisper).max() < 1e-6
    dynamic = processor.log_mel(clip)
    assert dynamic.shape == (80, 220)  # 1.7 s + 0.5 s, 10 ms a frame
    assert np.abs(dynamic[:, :218] - whisper[:, :218]).max() < 1e-6  # the last frames see the window's edge


def test_nothing_is_cut_silently(processor: SoundwaveProcessor) -> None:
    assert processor.log_mel(np.zeros(30 * SECOND, np.float32)).shape == (80, 3000)
    with pytest.raises(AudioTooLongError) as caught:
        processor.log_mel(np.zeros(round(31.2 * SECOND), np.float32))
    assert (caught.value.seconds, caught.value.limit) == (31.2, 30)


def test_ragged_clips_are_padded_with_zeros_under_a_mask(processor: SoundwaveProcessor) -> None:
    clips = [tiny.sound(0.4), tiny.sound(1.7)]
    batch = processor.features(clips)
    mask = batch["feature_attention_mask"]
    assert batch["input_features"].shape == (2, 80, 220)
    assert mask.sum(1).tolist() == [92, 220]
    assert not batch["input_features"][0][:, 92:].any()
    assert np.array_equal(batch["input_features"][0, :, :92].numpy(), processor.log_mel(clips[0]))


# Everything an audio may be

CLIP = tiny.sound(0.5, 7)


def wav_bytes(samples: np.ndarray, rate: int = SECOND) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="wav", subtype="FLOAT")
    return file.getvalue()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.wav"
    path.write_bytes(wav_bytes(CLIP))
    return path


BASE64 = base64.b64encode(wav_bytes(CLIP)).decode()
DATA_URL = f"data:audio/wav;base64,{BASE64}"
FILE = "the path of a file"
PARTS: dict[str, Any] = {
    "samples": {"type": "audio", "audio": CLIP},
    "a tensor": {"type": "audio", "audio": torch.from_numpy(CLIP)},
    "samples and rate": {"type": "audio", "audio": (CLIP, SECOND)},
    "bytes": {"type": "audio", "audio": wav_bytes(CLIP)},
    "base64": {"type": "audio", "base64": BASE64},
    "a data URL": {"type": "audio", "url": DATA_URL},
    "OpenAI's input_audio": {"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}},
    "an audio_url": {"type": "audio_url", "audio_url": {"url": DATA_URL}},
    "a bare audio_url": {"type": "audio_url", "audio_url": DATA_URL},
    "a path": {"type": "audio", "path": FILE},
    "a path as audio": {"type": "audio", "audio": FILE},
}


@pytest.mark.parametrize("form", PARTS)
def test_an_audio_part_may_be_written_in_any_of_these_ways(
    processor: SoundwaveProcessor, form: str, file: Path
) -> None:
    part = {key: str(file) if value is FILE else value for key, value in PARTS[form].items()}
    batch = processor.apply_chat_template([{"role": "user", "content": [part, {"type": "text", "text": "Hi"}]}])
    expected = processor.features([CLIP])["input_features"]
    assert torch.allclose(batch["input_features"], expected, atol=1e-5)


@pytest.mark.parametrize("part", [{"type": "audio"}, {"type": "audio", "audio": None}, {"type": "input_audio"}])
def test_an_audio_part_without_audio_is_refused(processor: SoundwaveProcessor, part: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="An audio part holds no audio; give it under 'audio', 'path', 'url'"):
        processor.apply_chat_template([{"role": "user", "content": [part]}])


def test_audio_that_is_too_long_is_refused_by_the_reader(processor: SoundwaveProcessor) -> None:
    with pytest.raises(AudioError, match="31 s long; at most 30 s are allowed"):
        processor.apply_chat_template([tiny.user("Hi", np.zeros(31 * SECOND, np.float32))])


# Conversations to tensors


def test_prompts_are_padded_on_the_left(processor: SoundwaveProcessor) -> None:
    short, long = [tiny.user("Hi")], [tiny.user("What does the person say?", CLIP)]
    batch = processor.apply_chat_template([short, long])
    alone = [processor.tokenize(one).ids for one in (short, long)]
    missing = len(alone[1]) - len(alone[0])
    assert batch["input_ids"].tolist() == [[processor.tokenizer.pad_token_id] * missing + alone[0], alone[1]]
    assert batch["attention_mask"].tolist() == [[0] * missing + [1] * len(alone[0]), [1] * len(alone[1])]
    assert len(batch["input_features"]) == 1


def test_text_alone_needs_no_audio_tensors(processor: SoundwaveProcessor) -> None:
    assert set(processor.apply_chat_template([tiny.user("Hi")])) == {"input_ids", "attention_mask"}


def test_a_conversation_can_stay_text(processor: SoundwaveProcessor) -> None:
    one = processor.apply_chat_template([tiny.user("Hi", CLIP)], tokenize=False)
    assert one.endswith(f"<|im_start|>user\n{AUDIO_TOKEN}Hi<|im_end|>\n<|im_start|>assistant\n")
    without = processor.apply_chat_template([[tiny.user("Hi", CLIP)]], tokenize=False, add_generation_prompt=False)
    assert without == [one.removesuffix("<|im_start|>assistant\n")]


def test_the_released_prompt_cannot_be_text(released: SoundwaveProcessor) -> None:
    with pytest.raises(ConfigurationError, match="The released prompt has no text form"):
        released.apply_chat_template([tiny.user("Hi", CLIP)], tokenize=False)


def test_a_call_takes_rendered_text_and_audio_as_in_transformers(processor: SoundwaveProcessor) -> None:
    text = processor.apply_chat_template([tiny.user("Hi", CLIP)], tokenize=False)
    called, direct = processor(text=text, audio=CLIP), processor.apply_chat_template([tiny.user("Hi", CLIP)])
    assert set(called) == set(direct)
    assert all(torch.equal(called[name], direct[name]) for name in direct)
    two = processor(text=[text, "the cat"], audio=[CLIP], return_tensors="pt", padding=True)
    assert two["input_ids"].shape[0] == 2
    assert set(processor(audio=CLIP)) == {"input_features", "feature_attention_mask"}


def test_a_call_resamples_bare_samples_of_another_rate(processor: SoundwaveProcessor) -> None:
    time = np.arange(8000) / 8000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    assert processor(audio=tone, sampling_rate=8000)["feature_attention_mask"].sum() == 152  # 1 s + 0.5 s, in 40 ms
    assert processor(audio=tone, sampling_rate=16_000)["feature_attention_mask"].sum() == 100


@pytest.mark.parametrize("prompt", [None, "Write it down."])
def test_a_transcription_request_asks_with_the_models_prompt(processor: SoundwaveProcessor, prompt: str | None) -> None:
    asked = prompt or "What does the person say?"
    expected = processor.apply_chat_template([[tiny.user(asked, CLIP)], [tiny.user(asked, CLIP)]])
    many = processor.apply_transcription_request([CLIP, (CLIP, SECOND)], prompt)
    assert all(torch.equal(many[name], expected[name]) for name in expected)
    assert len(processor.apply_transcription_request(CLIP, prompt)["input_ids"]) == 1


def test_a_models_system_turn_stands_before_audio_that_brings_none() -> None:
    plain, hears = tiny.processor(), tiny.processor(audio_system_prompt="Hear.")
    asked, typed = [tiny.user("Hi", CLIP)], [tiny.user("Hi")]
    system = {"role": "system", "content": "Hear."}
    assert hears.tokenize(asked).ids == plain.tokenize([system, *asked]).ids != plain.tokenize(asked).ids
    batch = hears.apply_chat_template(asked)
    assert batch["input_ids"][0].tolist() == hears.tokenize(asked).ids
    assert hears.tokenize(typed).ids == plain.tokenize(typed).ids
    own = [{"role": "system", "content": "Be brief."}, *asked]
    assert hears.tokenize(own).ids == plain.tokenize(own).ids


def test_a_placeholder_in_a_text_is_no_audio(processor: SoundwaveProcessor) -> None:
    batch = processor.apply_chat_template([tiny.user(f"Hi {AUDIO_TOKEN} there", CLIP)])
    assert batch["input_ids"][0].tolist().count(tiny.config().audio_token_id) == 1
    assert f"Hi {AUDIO_TOKEN} there" in processor.tokenizer.decode(batch["input_ids"][0])
    with pytest.raises(ConfigurationError, match=r"A text holds '<\|audio\|>', which would be a control token in a pr"):
        processor.apply_chat_template([tiny.user(AUDIO_TOKEN)], tokenize=False)


# One tokenizer, one model


@pytest.mark.parametrize(
    ("name", "value", "needed"), [("hop_length", 80, 160), ("sampling_rate", 8000, 16_000), ("feature_size", 128, 80)]
)
def test_another_feature_extractor_is_refused(name: str, value: int, needed: int) -> None:
    extractor = WhisperFeatureExtractor()
    setattr(extractor, name, value)
    with pytest.raises(ConfigurationError, match=f"{name} is {value}, but this model's encoder needs {needed}"):
        SoundwaveProcessor.for_config(tiny.config(), InferenceConfig(), extractor, tiny.chat_tokenizer())


def test_the_placeholder_is_added_once(processor: SoundwaveProcessor) -> None:
    size = len(processor.tokenizer)
    SoundwaveProcessor.for_config(
        tiny.config(), InferenceConfig(), processor.feature_extractor, processor.tokenizer
    )
    assert len(processor.tokenizer) == size
    assert processor.tokenizer(f"a{AUDIO_TOKEN}b").input_ids[1] == tiny.config().audio_token_id


def test_another_models_tokenizer_is_refused() -> None:
    config = tiny.config(audio_token_id=9)
    with pytest.raises(ConfigurationError, match=r"<\|audio\|> the id 273, but the model's audio_token_id is 9"):
        SoundwaveProcessor.for_config(config, InferenceConfig(), WhisperFeatureExtractor(), tiny.chat_tokenizer())


def test_a_processor_comes_back_with_its_settings(tmp_path: Path) -> None:
    tiny.model().config.save_pretrained(tmp_path)
    config = tiny.config(window_tail_seconds=0.25, frames_per_group=4)
    prompts = {"transcribe_prompt": "Write.", "audio_system_prompt": "Hear.", "transcribe": {"search": {"beams": 7}}}
    written = tiny.processor(config, **prompts)
    written.save_pretrained(tmp_path)
    read = AutoProcessor.from_pretrained(tmp_path)
    settings = ("encoder_window", "window_tail_seconds", "frames_per_group", "audio_token", "inference")
    assert json.loads((tmp_path / "inference.json").read_text())["transcribe"]["search"]["beams"] == 7
    assert isinstance(read, SoundwaveProcessor)
    assert {name: getattr(read, name) for name in settings} == {name: getattr(written, name) for name in settings}
    question = [tiny.user("Hi", CLIP)]
    for name, value in written.apply_chat_template(question).items():
        assert torch.equal(read.apply_chat_template(question)[name], value)
    assert read.batch_decode([[36, 37]]) == [written.tokenizer.decode([36, 37])]
