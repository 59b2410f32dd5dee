"""The store of encoder features: what was written is read, whatever interrupted the writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny
import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from soundwave.errors import AudioError, SoundwaveError, TrainingError
from soundwave.model.whisper import encode_window
from soundwave.training import features
from soundwave.training.features import Clip, FeatureStore, fill_store

WIDTH = 4
ABOUT: dict[str, object] = {"encoder": "tiny", "window": "dynamic", "tail": 0.5}


def store(folder: Path, **about: Any) -> FeatureStore:
    return FeatureStore(folder, WIDTH, ABOUT | about)


def frames(key: str, count: int) -> np.ndarray:
    """Frames that tell whose they are."""
    return (np.arange(count * WIDTH).reshape(count, WIDTH) + 100 * ord(key)).astype(np.float16)


def whole(opened: FeatureStore, keys: dict[str, int]) -> bool:
    return all(np.array_equal(opened.read(key), frames(key, count)) for key, count in keys.items())


def test_what_was_added_is_read_now_and_later(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add(["a", "b"], [frames("a", 3), frames("b", 1)])
    one.add(["c"], [frames("c", 2)])
    for opened in (one, store(tmp_path)):
        assert [key in opened for key in "abcd"] == [True, True, True, False]
        assert whole(opened, {"a": 3, "b": 1, "c": 2})
        assert opened.rows("b") == 1


def test_two_writers_do_not_overwrite_each_other(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    one.add(["a"], [frames("a", 3)])
    other.add(["b"], [frames("b", 2)])
    one.add(["c"], [frames("c", 1)])
    assert whole(store(tmp_path), {"a": 3, "b": 2, "c": 1})


INTERRUPTIONS: dict[str, Any] = {
    "half a line of the index": lambda folder: append(folder / "index.jsonl", b'["c", 5'),
    "a line of the index without its end": lambda folder: append(folder / "index.jsonl", b'["c", 5, 9]'),
    "half a row of frames": lambda folder: append(folder / "frames.f16", b"\0\0\0"),
    "rows without a line": lambda folder: append(folder / "frames.f16", b"\0" * 2 * WIDTH * 7),
    "a line whose rows are not there": lambda folder: append(folder / "index.jsonl", b'["c", 5, 9]\n'),
    "all of that": lambda folder: (
        append(folder / "frames.f16", b"\0\0\0"), append(folder / "index.jsonl", b'["c", 5, 9]\n["d", '),
    ),
}


def append(file: Path, content: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(content)


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_an_interrupted_store_is_repaired(tmp_path: Path, interruption: str) -> None:
    store(tmp_path).add(["a", "b"], [frames("a", 3), frames("b", 2)])
    INTERRUPTIONS[interruption](tmp_path)
    repaired = store(tmp_path)
    assert "c" not in repaired
    assert whole(repaired, {"a": 3, "b": 2})
    repaired.add(["c", "e"], [frames("c", 2), frames("e", 1)])
    assert whole(store(tmp_path), {"a": 3, "b": 2, "c": 2, "e": 1})  # after the repair, nothing is lost again


def test_features_of_another_encoder_or_window_are_refused(tmp_path: Path) -> None:
    store(tmp_path)
    with pytest.raises(TrainingError, match=r'holds features of \{.*"tiny".*\}, but \{.*"large".*\} is wanted; choose'):
        store(tmp_path, encoder="large")


# Clips


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clip.wav"
    soundfile.write(path, tiny.sound(2.0), 16_000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("span", "seconds"),
    [
        ({}, 2.0),
        ({"start": 0.5}, 1.5),
        ({"end": 0.5}, 0.5),
        ({"start": 0.5, "end": 1.25}, 0.75),
        ({"start": 1.5, "end": 2.05}, 0.5),  # as stated lengths are rounded
        ({"speed": 2.0}, 1.0),  # twice as fast is half as long
        ({"speed": 0.8}, 2.5),
        ({"start": 1.0, "end": 2.0, "speed": 0.5}, 2.0),
    ],
)
def test_a_clip_is_a_stretch_at_a_speed(file: Path, span: dict[str, float], seconds: float) -> None:
    assert len(Clip(str(file), **span).samples()) == pytest.approx(seconds * 16_000, abs=20)


def test_a_cut_is_the_samples_of_that_stretch(file: Path) -> None:
    whole_file, cut = Clip(str(file)).samples(), Clip(str(file), 0.5, 1.25).samples()
    assert np.array_equal(cut, whole_file[8000:20_000])


def test_a_stretch_beyond_the_end_is_no_silent_success(file: Path) -> None:
    with pytest.raises(AudioError, match=r"clip.wav' has nothing from 5 s on; it is 2.0 s long"):
        Clip(str(file), 5.0, 6.0).samples()
    with pytest.raises(AudioError, match=r"clip.wav' is 2.00 s long; the cut from 1.5 to 9 s ends after it"):
        Clip(str(file), 1.5, 9.0).samples()


def test_keys_tell_content_span_and_speed_apart(file: Path, tmp_path: Path) -> None:
    clips = [Clip(str(file)), Clip(str(file), 0.5), Clip(str(file), None, 0.5), Clip(str(file), speed=1.1)]
    keys = {clip.key() for clip in clips}
    assert len(keys) == len(clips)
    assert Clip(str(file)).key() in keys
    before = Clip(str(file)).key()
    soundfile.write(file, tiny.sound(2.1, 5), 16_000)
    assert Clip(str(file)).key() != before  # another recording of the same name


# Filling


@pytest.fixture
def recordings(tmp_path: Path) -> list[tuple[Clip, float]]:
    made = []
    for i, seconds in enumerate([0.4, 1.6, 0.9]):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, tiny.sound(seconds, i), 16_000, subtype="FLOAT")
        made.append((Clip(str(path)), seconds))
    return made


@pytest.fixture(scope="module")
def tower() -> WhisperEncoder:
    made = WhisperEncoder(tiny.whisper_config())
    tiny.randomise(made, 0)
    return made.eval().requires_grad_(False)


def tiny_store(folder: Path) -> FeatureStore:
    return FeatureStore(folder, tiny.ENCODER_WIDTH, ABOUT)


def test_stored_features_are_what_the_encoder_gives_each_clip(
    recordings: list[tuple[Clip, float]], tower: WhisperEncoder, tmp_path: Path
) -> None:
    processor, opened, calls = tiny.processor(), tiny_store(tmp_path / "store"), []
    fill_store(opened, recordings, tower, processor, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3, 3)
    for clip, _ in recordings:
        mel = torch.from_numpy(processor.log_mel(clip.samples()))
        expected = encode_window(tower, mel[None], None)[0].numpy()
        assert opened.read(clip.key()).shape == expected.shape
        assert np.abs(opened.read(clip.key()) - expected).max() < 0.01  # float16


def test_only_what_is_missing_is_encoded(
    recordings: list[tuple[Clip, float]], tower: WhisperEncoder, tmp_path: Path
) -> None:
    processor, opened, calls = tiny.processor(), tiny_store(tmp_path / "store"), []
    fill_store(opened, recordings[:2], tower, processor)
    fill_store(opened, recordings, tower, processor, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 1)]
    assert len((tmp_path / "store" / "index.jsonl").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "store" / "store.json").read_text())["encoder"] == "tiny"


def test_several_reading_processes_store_the_same_as_one_and_name_the_same_clips(
    recordings: list[tuple[Clip, float]], tower: WhisperEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BATCH_SECONDS", 0.5)  # a batch for each clip
    (tmp_path / "bad.wav").write_text("no sound")
    clips, stored, named = [*recordings, (Clip(str(tmp_path / "bad.wav")), 1.0)], [], []
    for readers in (1, 2):
        told: list[Clip] = []
        opened = tiny_store(tmp_path / f"store-{readers}")
        fill_store(opened, clips, tower, tiny.processor(), None, lambda clip, _, told=told: told.append(clip), readers)
        stored.append([(opened.folder / name).read_bytes() for name in ("index.jsonl", "frames.f16")])
        named.append(told)
    assert stored[0] == stored[1]
    assert named[0] == named[1] == [clips[-1][0]]


@pytest.mark.parametrize("kind", ["not audio", "too long"])
def test_a_clip_that_cannot_be_used_is_named_and_left_out(
    recordings: list[tuple[Clip, float]], tower: WhisperEncoder, tmp_path: Path, kind: str
) -> None:
    bad = tmp_path / "bad.wav"
    if kind == "not audio":
        bad.write_text("no sound")
    else:
        soundfile.write(bad, np.zeros(16_000 * 31), 16_000)
    clip = Clip(str(bad), None, 31.0 if kind == "too long" else None)  # a span that the manifest calls short
    told: list[tuple[Clip, SoundwaveError]] = []
    opened = tiny_store(tmp_path / "store")
    clips = [*recordings, (clip, 1.0)]
    fill_store(opened, clips, tower, tiny.processor(), on_bad=lambda one, error: told.append((one, error)))
    assert [one for one, _ in told] == [clip]
    assert clip.key() not in opened
    assert all(one.key() in opened for one, _ in recordings)
    with pytest.raises(SoundwaveError):
        fill_store(opened, clips, tower, tiny.processor())
