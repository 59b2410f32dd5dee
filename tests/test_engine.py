"""The engine over a tiny model: ask is the join of stream, a batch is single calls, options are checked."""

from __future__ import annotations

import io
import pickle
import threading
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import soundwave
from soundwave.audio import SAMPLE_RATE
from soundwave.checkpoints.lora import attach_lora
from soundwave.errors import AudioError, ConfigurationError
from soundwave.inference.engine import Engine, Request
from soundwave.inference.options import GenerationOptions
from soundwave.inference.results import Chunk, Reply
from soundwave.inference_config import InferenceConfig

PROMPTS = ["the cat", "person on the cat, son", "so"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    config = tiny.config(ctc_vocabulary=list(range(70, 100)))
    return tiny.engine(config)


def clip(seconds: float, seed: int = 0) -> tuple[np.ndarray, int]:
    return tiny.sound(seconds, seed), SAMPLE_RATE


def wav_bytes(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def test_ask_is_the_join_of_stream(engine: Engine) -> None:
    chunks = list(engine.stream(clip(2.0), "the cat", temperature=0, max_new_tokens=24))
    reply = engine.ask(clip(2.0), "the cat", temperature=0, max_new_tokens=24)
    assert "".join(chunk.text for chunk in chunks) == reply.text
    assert [token for chunk in chunks for token in chunk.token_ids] == reply.token_ids
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].reply is not None
    assert chunks[-1].reply.text == reply.text


def test_ask_tells_of_the_pieces_that_stream_gives(engine: Engine) -> None:
    pieces: list[Chunk] = []
    reply = engine.ask(clip(2.0), "the cat", temperature=0, max_new_tokens=24, on_chunk=pieces.append)
    streamed = list(engine.stream(clip(2.0), "the cat", temperature=0, max_new_tokens=24))
    assert [(one.text, one.token_ids) for one in pieces] == [(one.text, one.token_ids) for one in streamed]
    assert pieces[-1].reply is reply


def test_what_is_called_with_a_piece_may_ask_and_may_fail(engine: Engine) -> None:
    alone = engine.ask(clip(1.0), "so", temperature=0, max_new_tokens=2)
    within: list[Reply] = []

    def on_chunk(chunk: Chunk) -> None:
        if len(within) == 2:
            raise BrokenPipeError
        within.append(engine.ask(clip(1.0), "so", temperature=0, max_new_tokens=2))

    with pytest.raises(BrokenPipeError):
        engine.ask(clip(2.0), "the cat", temperature=0, max_new_tokens=24, on_chunk=on_chunk)
    assert [one.token_ids for one in within] == [alone.token_ids] * 2


def test_a_batch_of_requests_gives_what_single_calls_give(engine: Engine) -> None:
    requests = [(clip(0.7, 1), PROMPTS[0]), (None, PROMPTS[1]), (clip(6.1, 2), PROMPTS[2]), (clip(2.9, 3), PROMPTS[1])]
    together = engine.ask_batch(requests, temperature=0, max_new_tokens=16)
    for (audio, prompt), reply in zip(requests, together, strict=True):
        alone = engine.ask(audio, prompt, temperature=0, max_new_tokens=16)
        assert (reply.token_ids, reply.text, reply.finish_reason) == (alone.token_ids, alone.text, alone.finish_reason)
        assert reply.usage == alone.usage


def test_the_usage_counts_what_the_language_model_reads(engine: Engine) -> None:
    speech = engine.encode(clip(3.0))
    reply = engine.ask(clip(3.0), "the", temperature=0, max_new_tokens=3)
    typed = engine.ask(None, "the", temperature=0, max_new_tokens=3)
    assert reply.usage.audio_tokens == len(speech.embeddings) > 0
    assert reply.usage.audio_seconds == 3.0
    assert reply.usage.prompt_tokens == typed.usage.prompt_tokens + reply.usage.audio_tokens
    assert reply.usage.completion_tokens == len(reply.token_ids) <= 3
    assert 0 < reply.timings.first_token <= reply.timings.total


def test_an_answer_that_is_cut_says_length(engine: Engine) -> None:
    assert engine.ask(clip(1.0), "the cat", temperature=0, max_new_tokens=1).finish_reason == "length"


def test_the_same_seed_gives_the_same_sampled_answer(engine: Engine) -> None:
    answers = [
        engine.ask(clip(1.5), "the", temperature=1.5, top_p=1.0, max_new_tokens=20, seed=seed).token_ids
        for seed in (7, 7, 8)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_every_way_of_giving_audio_is_the_same_audio(engine: Engine, tmp_path: Path) -> None:
    samples = tiny.sound(1.2)
    data = wav_bytes(samples)
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    heard = [engine.encode(source).ctc_token_ids for source in (path, str(path), data, io.BytesIO(data))]
    assert heard[0] == heard[1] == heard[2] == heard[3]


def test_token_times_lie_in_order_inside_the_recording(engine: Engine) -> None:
    speech = engine.encode(clip(4.0))
    assert len(speech.token_times) == len(speech.ctc_token_ids) > 3
    starts = [start for start, _ in speech.token_times]
    assert starts == sorted(starts)
    assert all(0 <= start <= end <= speech.duration for start, end in speech.token_times)
    vocabulary = engine.encoder.config.ctc_vocabulary
    assert vocabulary is not None
    assert set(speech.ctc_token_ids) <= set(vocabulary)


def test_transcribe_takes_the_trained_prefix_away() -> None:
    plain = (engine := tiny.engine()).transcribe(clip(2.0))
    said = engine.ask(clip(2.0), engine.inference.transcribe_prompt, via="audio", temperature=0, max_new_tokens=56).text
    assert plain.text == " ".join(said.split()), "a transcript is one line"
    assert plain.source == "llm"
    prefixed = tiny.engine(inference=replace(engine.inference, transcript_prefixes=(said[:3],)))
    assert prefixed.transcribe(clip(2.0)).text == " ".join(said[3:].split())


def test_where_no_token_is_read_nothing_is_written() -> None:
    engine = tiny.engine()
    with torch.no_grad():
        engine.encoder.alignment.ctc_blank_bias.fill_(1e4)  # every frame is blank
    silent, spoken = engine.transcribe_batch([clip(5.0), clip(1.0)])
    assert (silent.text, silent.ctc_text, silent.segments) == ("", "", [])
    assert silent.duration == 5.0
    assert spoken.text == ""


def test_a_typed_question_gets_the_plain_language_models_answer() -> None:
    model = tiny.model()
    before = tiny.engine(model=model).ask(None, "the cat", temperature=0, max_new_tokens=12).token_ids
    attach_lora(model, r=4, lora_alpha=64, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    model.eval()
    answers = [
        tiny.engine(model=model, inference=InferenceConfig(text_only=way)).ask(
            None, "the cat", temperature=0, max_new_tokens=12
        ).token_ids
        for way in ("plain", "adapted")
    ]
    assert answers[0] == before != answers[1]


def test_without_an_llm_recordings_are_written_down_and_nothing_can_be_asked() -> None:
    config = tiny.config(ctc_vocabulary=list(range(70, 100)))
    engine = tiny.engine(config, llm=False)
    transcript = engine.transcribe(clip(2.0))
    assert (transcript.text, transcript.source) == (transcript.ctc_text, "ctc")
    assert transcript.text == tiny.engine(config).transcribe(clip(2.0), llm=False).text
    with pytest.raises(ConfigurationError, match="backend='none'"):
        engine.ask(clip(2.0), "the cat")
    with pytest.raises(ConfigurationError, match="llm=True"):
        engine.transcribe(clip(2.0), llm=True)


def test_a_bad_request_is_named_or_stands_in_its_place(engine: Engine) -> None:
    requests = [(clip(1.0), "so"), (b"no sound", "so"), (None, "the cat")]
    with pytest.raises(AudioError, match="request 1: "):
        engine.ask_batch(requests)
    replies = engine.ask_batch(requests, temperature=0, max_new_tokens=4, return_errors=True)
    assert isinstance(replies[1], AudioError)
    assert replies[0].token_ids == engine.ask(clip(1.0), "so", temperature=0, max_new_tokens=4).token_ids
    transcripts = engine.transcribe_batch([clip(1.0), b"no sound"], return_errors=True)
    assert isinstance(transcripts[1], AudioError)
    assert transcripts[0].text == engine.transcribe(clip(1.0)).text


def test_an_engine_is_not_pickled_but_says_what_to_do(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match=r"soundwave\.load\('tiny'\)"):
        pickle.dumps(engine)


def test_two_threads_get_their_own_answers(engine: Engine) -> None:
    expected = [engine.ask(clip(1.0, i), PROMPTS[i], temperature=0, max_new_tokens=12).text for i in range(3)]
    got: dict[int, str] = {}

    def work(i: int) -> None:
        got[i] = engine.ask(clip(1.0, i), PROMPTS[i], temperature=0, max_new_tokens=12).text

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got[i] for i in range(3)] == expected


def test_a_stream_that_nobody_reads_on_stops(engine: Engine) -> None:
    stream = engine.stream(clip(1.0), "the cat", temperature=1.0, seed=1, max_new_tokens=3000)
    next(stream)
    stream.close()
    assert engine.ask(clip(1.0), "so", temperature=0, max_new_tokens=2).token_ids


def test_no_requests_give_no_replies(engine: Engine) -> None:
    assert engine.ask_batch([]) == []
    assert len(engine.ask_batch([Request(clip(0.5), "the")], temperature=0, max_new_tokens=2)) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0; give a number of at most 1 and above 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"seed": 2**70}, "seed is 1180591620717411303424"),
        ({"seed": "a"}, "seed is 'a'; give a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; give a whole number of at least 1"),
    ],
)
def test_an_option_out_of_range_says_what_is_allowed(option: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GenerationOptions(**option)  # type: ignore[arg-type]


def test_a_prompt_longer_than_the_model_reads_is_refused(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="4096"):
        engine.ask(None, "the cat " * 2500)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"device": "gpu7"}, "device='gpu7' is not known; give auto, cpu"),
        ({"dtype": "int3"}, "dtype='int3' is not known; choose auto, float32"),
        ({"backend": "abacus"}, "backend='abacus' is not known; choose one of torch"),
    ],
)
def test_a_wrong_way_to_load_says_what_is_allowed(option: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        soundwave.load("mini", **option)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="device='cuda' is not available here; give --device cpu"):
        soundwave.load("mini", device="cuda")


def test_the_engine_describes_its_model(engine: Engine) -> None:
    about = engine.describe()
    assert about["parameters"]["total"] == sum(about["parameters"].values()) // 2
    assert (about["model"], about["device"], about["dtype"]) == ("tiny", "cpu", "float32")
