"""The benchmarks: the steps that speed is compared with are the right ones, and every script says what it should."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile
import tiny
import torch

from soundwave.audio import SAMPLE_RATE
from soundwave.checkpoints.loading import load_checkpoint
from soundwave.inference.engine import Engine
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.training.cost.estimate import Workload, paper_clip_seconds, workload
from soundwave.training.recipe import Recipe
from soundwave.training.stages import stage_named

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import cold_start  # noqa: E402
import concurrency  # noqa: E402
import decoding  # noqa: E402
import gpu_speed  # noqa: E402
import gpu_training  # noqa: E402
import speed  # noqa: E402
import subjects  # noqa: E402
import timing  # noqa: E402
import transcription  # noqa: E402
from released_steps import ReleasedSteps  # noqa: E402


@pytest.fixture(scope="module")
def whole() -> SoundwaveForConditionalGeneration:
    """A tiny model with mini's switches: temporal attention, a part of the vocabulary, pooled blanks, posteriors."""
    return tiny.model(tiny.config(ctc_vocabulary=list(range(10, 60)), alignment_layers=2), seed=5)


@pytest.fixture(scope="module")
def mini_like(whole: SoundwaveForConditionalGeneration) -> Engine:
    return tiny.engine(model=whole)


@pytest.fixture(scope="module")
def steps(whole: SoundwaveForConditionalGeneration, mini_like: Engine) -> ReleasedSteps:
    return ReleasedSteps(whole, mini_like.processor)


def same_as_engine(folder: Path, samples: Any, prompt: str) -> None:
    model, processor, _ = load_checkpoint(folder, "cpu", torch.float32)
    engine, steps = Engine.of(model, processor), ReleasedSteps(model, processor)
    ours, theirs = engine.encode((samples, SAMPLE_RATE)), steps.encode(samples)
    torch.testing.assert_close(ours.embeddings, theirs.embeddings, atol=1e-4, rtol=1e-4)
    reply = engine.ask((samples, SAMPLE_RATE), prompt, temperature=0, max_new_tokens=12)
    assert steps.ask(samples, prompt, 12) == reply.token_ids


def test_the_released_steps_give_what_the_engine_gives_on_a_released_model(tmp_path: Path) -> None:
    same_as_engine(tiny.released_folder(tmp_path / "tiny"), tiny.sound(3.0), "What does the person say?")


def test_the_released_steps_give_what_the_released_code_gave() -> None:
    if "SOUNDWAVE_REFERENCE" not in os.environ:
        pytest.skip("SOUNDWAVE_REFERENCE is not set, so the released code's own outputs are not at hand")
    same_as_engine(Path(os.environ["SOUNDWAVE_REFERENCE"]) / "golden-a", tiny.sound(2.0), "What does the person say?")


def test_the_full_vocabulary_leaves_the_decisions_of_a_part_of_it_as_they_are(
    mini_like: Engine, steps: ReleasedSteps
) -> None:
    samples = tiny.sound(29.0)
    with torch.no_grad():
        output = mini_like.encoder(**subjects.padded(mini_like).processor.features([samples]))
    classes = mini_like.encoder.config.ctc_vocabulary
    ours = [classes[c] if c < len(classes) else steps.blank for c in output.ctc_logits[0].argmax(-1).tolist()]
    assert steps.encode(samples).path == ours
    assert len(set(ours)) > 5
    assert steps.head.out_features == mini_like.encoder.config.text_config.vocab_size + 1


def test_the_prompt_of_the_steps_is_the_engines(mini_like: Engine, steps: ReleasedSteps) -> None:
    question = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "The cat?"}]}
    assert steps.prompt_ids("The cat?") == mini_like.processor.tokenize([question]).ids


def test_speed_prints_ratios_of_equal_work(
    mini_like: Engine, whole: SoundwaveForConditionalGeneration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(speed, "engine_of", lambda model: (mini_like, whole, "tiny weights"))
    monkeypatch.setattr(speed, "speech", tiny.sound)
    out = tmp_path / "speed.json"
    few = ["--seconds", "1", "--tokens", "3", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["speed.py", *few, "--json", str(out)])
    speed.main()
    result = json.loads(out.read_text())
    assert [row["what"] for row in result["rows"]] == ["encode", "first token", "answer of 3 tokens"]
    row = result["rows"][0]
    assert row["ratio_to_released"] == row["seconds"]["released steps"] / row["seconds"]["ours"]
    assert len(row["all_seconds"]["ours"]) == 2
    assert {one["against"] for one in result["verdict"]} == {"released steps", "ours, 30-s window"}
    assert result["batch"]["clips"] == 8
    assert result["clock"] == "wall"
    assert {"processor", "threads", "torch", "load_average"} <= set(result["machine"])


def test_every_variant_makes_as_many_tokens_as_asked(mini_like: Engine, steps: ReleasedSteps) -> None:
    settings = steps.model.language_model.generation_config
    with speed.exactly(steps.model, 20):
        reply = mini_like.ask((tiny.sound(1.0), SAMPLE_RATE), "The cat", temperature=0, max_new_tokens=20)
        assert len(reply.token_ids) == len(steps.ask(tiny.sound(1.0), "The cat", 20)) == 20
        assert settings.eos_token_id not in reply.token_ids[:-1]
    assert settings.min_new_tokens is None


def test_transcription_measures_each_way_and_its_errors(
    mini_like: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", tiny.sound(1.0), SAMPLE_RATE)
    text = mini_like.transcribe(tmp_path / "a.wav", llm=False).text
    rows = [{"audio": f"{name}.wav", "text": text} for name in "ab"]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(transcription.soundwave, "load", lambda model: mini_like)
    few = ["--every", "1", "--batch", "2", "--repeats", "1"]
    transcription.main([str(tmp_path / "manifest.jsonl"), *few, "--json", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["clips"], result["audio_seconds"]) == (2, 2.0)
    assert list(result["ways"]) == [
        "transcribe", "transcribe, batches of 2", "transcribe --no-llm", "transcribe --no-llm, batches of 2",
    ]
    assert result["ways"]["transcribe --no-llm, batches of 2"]["word_error_rate"] == 0
    assert all(way["times_real_time"] > 0 for way in result["ways"].values())


def test_requests_at_the_same_time_are_measured_beside_one_after_the_other(
    mini_like: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", tiny.sound(0.5), SAMPLE_RATE)
    rows = [{"audio": f"{name}.wav", "text": "the cat"} for name in "ab"]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(concurrency.soundwave, "load", lambda model: mini_like)
    threads = torch.get_num_threads()
    few = ["--workers", "2", "--tokens", "3", "--repeats", "1", "--json", str(tmp_path / "out.json")]
    concurrency.main([str(tmp_path / "manifest.jsonl"), *few])
    torch.set_num_threads(threads)
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["clips"], result["audio_seconds"]) == (2, 1.0)
    for kind, unit in (("transcribe", "audio_seconds_per_second"), ("ask", "tokens_per_second")):
        loop, *others = result[kind].values()
        assert loop["ratio"] == 1.0
        assert others
        assert all(way[unit] > 0 and len(way["seconds"]) == 1 for way in result[kind].values())


def test_decoding_compares_equal_tokens(tmp_path: Path) -> None:
    model, out = tiny.released_folder(tmp_path / "model"), tmp_path / "decoding.json"
    decoding.main(["--model", str(model), "--rows", "1", "2", "--tokens", "3", "--repeats", "1", "--json", str(out)])
    measured = json.loads(out.read_text())["measured"]
    assert [row["what"] for row in measured] == [
        "1 rows, temperature 0", "2 rows, temperature 0", "1 rows, temperature 0.2", "2 rows, temperature 0.2",
        "score 24 texts",
    ]
    assert measured[0]["same_tokens"] is True
    assert all(row["ratio"] == row["seconds"][row["other"]] / row["seconds"]["ours"] for row in measured)


def test_rounds_are_interleaved_after_one_that_does_not_count() -> None:
    called: list[str] = []
    variants = {name: lambda name=name: called.append(name) for name in "ab"}
    times = timing.interleaved(variants, 2)
    assert called == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_processor_seconds_count_work_and_no_waiting() -> None:
    variants = {"waits": lambda: time.sleep(0.2), "works": lambda: sum(range(3_000_000))}
    seconds = timing.interleaved(variants, 1, "processor")
    assert seconds["waits"][0] < 0.1
    assert seconds["works"][0] > seconds["waits"][0]


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4")
def test_a_process_is_measured_whole_and_by_itself() -> None:
    ours = torch.ones(100_000_000)  # 400 MB of this process must not be counted as the other's
    program = "import time; block = bytearray(100_000_000); time.sleep(0.2)"
    measured = cold_start.run([sys.executable, "-c", program])
    assert 0.2 < measured.seconds < 20
    assert 1e8 < measured.peak_bytes < 2e8 < ours.nbytes
    with pytest.raises(SystemExit, match="failed with 3"):
        cold_start.run([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize(("gigabytes", "told"), [(1.2, "met"), (1.4, "MISSED")])
def test_a_cold_start_is_held_to_its_budget(
    monkeypatch: pytest.MonkeyPatch, gigabytes: float, told: str
) -> None:
    monkeypatch.setattr(cold_start, "run", lambda command: cold_start.Run(2.0, int(gigabytes * 1e9)))
    result = cold_start.measure("mini", 3, cold_disk=False)
    assert result["ratio_to_imports"] == 1.0
    assert cold_start.show(result).splitlines()[-1] == told


def test_without_a_gpu_its_benchmark_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_speed.py"])
    with pytest.raises(SystemExit, match=r"needs a CUDA GPU with 24 GB, .* run benchmarks/speed.py"):
        gpu_speed.main()


def test_the_gpu_benchmark_measures_what_it_prints(tmp_path: Path) -> None:
    values = {**tiny.released_config(), "rope_scaling": None}
    config = gpu_speed.released_config(values, tiny.whisper_config(), ffn_dim=40)
    model = gpu_speed.random_model(config, "cpu", torch.float32)
    result = gpu_speed.measure(gpu_speed.Bench(model, audio_positions=5), [2.0], tokens=4, batch=2, repeats=1)
    assert list(result["seconds"]) == [
        "encode 30-s window", "encode 2 s", "first token", "answer of 4 tokens", "first token, batch of 2",
        "answers of 4 tokens, batch of 2",
    ]
    about = {"parameters": 1, "dtype": "float32", "device": "cpu", "batch": 2}
    printed = gpu_speed.show(result | about | {"weights_gigabytes": 0.1, "peak_gigabytes": 0.2})
    assert "tokens a second alone" in printed


def test_benchmarks_that_are_given_minutes_measure_once_when_these_are_over() -> None:
    over = time.monotonic() - 1
    assert len(timing.interleaved({"a": lambda: None}, repeats=9, until=over)["a"]) == 1
    assert len(timing.interleaved({"a": lambda: None}, repeats=3, until=over + 60)["a"]) == 3
    recipe = Recipe(stage="alignment", features=None, batch_seconds=20, max_batch_size=2)
    row = gpu_training.measure(recipe, tiny.config(), torch.device("cpu"), steps=9, warmup=1, until=over)
    assert len(row["seconds"]) == 1


def test_the_gpu_benchmark_is_of_the_published_size() -> None:
    with torch.device("meta"):
        model = SoundwaveForConditionalGeneration(gpu_speed.full_size())
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(9.4e9, rel=0.01)


def test_without_a_gpu_the_training_benchmark_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_training.py"])
    with pytest.raises(SystemExit) as ended:
        gpu_training.main()
    assert ended.value.code == 2
    assert "needs a CUDA GPU with 40 GB or more" in capsys.readouterr().err


def test_rates_of_training_follow_from_a_steps_time() -> None:
    work = Workload(clips=8, seconds=5.0, frames=300, aligned=150, positions=100, audio_positions=30, replied=20)
    rates = gpu_training.speed(0.5, work, flops_of_clip=10e12, peak=320e12)
    assert (rates.steps_per_second, rates.clips_per_second) == (2.0, 16.0)
    assert (rates.audio_seconds_per_second, rates.tokens_per_second) == (80.0, 1600.0)
    assert (rates.tflops_per_second, rates.share_of_peak) == (160.0, 0.5)
    assert gpu_training.speed(0.5, work, 10e12, None).share_of_peak is None
    peaks = [gpu_training.peak_of(name) for name in ("NVIDIA A800-SXM4-80GB", "NVIDIA H100 80GB HBM3", "Voodoo 2")]
    assert peaks == [312e12, 989e12, None]


@pytest.mark.parametrize("name", ["alignment", "shrinking", "instruction"])
def test_the_training_benchmark_runs_the_steps_of_its_stage(name: str) -> None:
    config = tiny.config(
        ctc_head="projection", audio_embedding="look_back", blank_handling="one_per_run", run_pooling="peak"
    )
    recipe = Recipe(stage=name, features=None, batch_seconds=20, max_batch_size=2, gradient_checkpointing=True)
    row = gpu_training.measure(recipe, config, torch.device("cpu"), steps=2, warmup=1)
    assert len(row["seconds"]) == 2
    assert row["steps_per_second"] > 0
    assert row["peak_gigabytes"] is None
    assert f"{name}: 2 clips of {paper_clip_seconds(stage_named(name)):.1f} s" in gpu_training.show(row)


def test_the_training_benchmark_gives_the_llm_as_many_positions_as_it_says() -> None:
    config = tiny.config(ctc_head="projection", audio_embedding="look_back", blank_handling="one_per_run")
    recipe = Recipe(stage="instruction", features=None, batch_seconds=20, max_batch_size=2)
    stage = stage_named("instruction")
    work = workload(config, recipe, paper_clip_seconds(stage))
    model, tower = gpu_training.random_model(config, recipe, stage, torch.device("cpu"))
    trainer = gpu_training.Trainer(model, tower, recipe, stage, work, torch.device("cpu"))
    batch = trainer.batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = model.encode_speech(encoder_frames=batch.encoder_frames, frame_mask=batch.frame_mask).kept()
    assert [len(row) for row in kept] == pytest.approx([work.audio_positions] * 2, abs=2)
