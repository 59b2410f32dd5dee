"""Effects on waveforms do what their options say, keep the length, and repeat from a seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny
import tiny_runs
import torch

from soundwave.audio import SAMPLE_RATE
from soundwave.errors import ConfigurationError, DataError
from soundwave.training.augmentation import (
    Augmentation,
    CodecAugmentation,
    Effects,
    NoiseAugmentation,
    ReverberationAugmentation,
    TelephoneAugmentation,
    VolumeAugmentation,
    add_noise,
    add_room,
    change_volume,
    made_room,
    mu_law,
    over_telephone,
    resampled,
    reverberated,
    through_codec,
    within_one,
)
from soundwave.training.features import Clip
from soundwave.training.loop import train
from soundwave.training.prepare import prepare
from soundwave.training.recipe_io import read_recipe

SPEECH = tiny.sound(1.5, seed=3)
EVERYTHING = Augmentation(
    reverberation=ReverberationAugmentation(probability=1.0), noise=NoiseAugmentation(probability=1.0),
    volume=VolumeAugmentation(probability=1.0), codec=CodecAugmentation(probability=1.0),
    telephone=TelephoneAugmentation(probability=1.0),
)  # fmt: skip
ONE_BY_ONE = {
    name: Augmentation(**{name: dataclasses.replace(effect, probability=1.0)})
    for name, effect in EVERYTHING.effects().items()
}


def effects(augmentation: Augmentation) -> Effects:
    made = Effects.of(augmentation, seed=1, stored=False)
    assert made is not None
    return made


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(signal.astype(float) ** 2) / np.mean(noise.astype(float) ** 2)))


def band_power(samples: np.ndarray, low: float, high: float) -> float:
    frequency = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    inside = (frequency >= low) & (frequency < high)
    return float(np.sum(np.abs(np.fft.rfft(samples)[inside]) ** 2))


@pytest.mark.parametrize("name", [*ONE_BY_ONE, "all"])
def test_every_effect_changes_the_sound_but_not_its_length_and_stays_within_full_scale(name: str) -> None:
    chosen = effects(ONE_BY_ONE.get(name, EVERYTHING))
    for number in range(4):
        for samples in (SPEECH, tiny.sound(0.5013, seed=number)):
            heard = chosen.apply(samples / np.abs(samples).max(), f"1/0/{number}")
            assert heard.shape == samples.shape
            assert heard.dtype == np.float32
            assert np.abs(heard).max() <= 1.0
            assert np.isfinite(heard).all()
            assert not np.allclose(heard, samples, atol=1e-3)


@pytest.mark.parametrize("name", [*ONE_BY_ONE, "all"])
def test_a_take_repeats_and_another_differs(name: str) -> None:
    chosen = effects(ONE_BY_ONE.get(name, EVERYTHING))
    first = chosen.apply(SPEECH, "1/0/0")
    np.testing.assert_array_equal(first, chosen.apply(SPEECH, "1/0/0"))
    if name != "telephone":  # nothing is drawn there
        assert not np.array_equal(first, chosen.apply(SPEECH, "1/0/1"))


def test_an_effect_happens_as_often_as_it_says() -> None:
    chosen = effects(Augmentation(volume=VolumeAugmentation(0.25, [-6.0, -3.0])))
    changed = sum(not np.array_equal(chosen.apply(SPEECH[:100], f"1/0/{i}"), SPEECH[:100]) for i in range(400))
    assert 70 <= changed <= 130


def test_no_probability_no_effects() -> None:
    assert Effects.of(Augmentation(), seed=1, stored=False) is None


def test_volume_is_a_gain_in_decibels() -> None:
    louder = change_volume(SPEECH, VolumeAugmentation(1.0, [-7.0, -7.0]), draw())
    assert decibels(louder, SPEECH) == pytest.approx(-7.0, abs=1e-3)


def test_what_would_clip_is_made_quieter_and_keeps_its_shape() -> None:
    np.testing.assert_allclose(within_one(SPEECH * 50), SPEECH / np.abs(SPEECH).max(), rtol=1e-5)
    np.testing.assert_array_equal(within_one(SPEECH), SPEECH)


@pytest.mark.parametrize("colour", ["white", "pink", "brown"])
def test_made_noise_has_the_ratio_that_was_asked_for(colour: str) -> None:
    heard = add_noise(SPEECH, NoiseAugmentation(1.0, [12.0, 12.0], colours=[colour]), draw())
    assert decibels(SPEECH, heard - SPEECH) == pytest.approx(12.0, abs=0.1)


@pytest.mark.parametrize("seconds", [0.4, 1.5, 60.0])
def test_recorded_noise_has_the_ratio_that_was_asked_for(tmp_path: Path, seconds: float) -> None:
    (tmp_path / "cafe").mkdir()
    soundfile.write(tmp_path / "cafe" / "a.wav", 0.1 * draw(1).standard_normal(int(seconds * SAMPLE_RATE)), SAMPLE_RATE)
    options = NoiseAugmentation(1.0, [7.0, 7.0], source=str(tmp_path))
    heard = add_noise(SPEECH, options, draw())
    assert decibels(SPEECH, heard - SPEECH) == pytest.approx(7.0, abs=0.1)


def test_noises_come_from_a_manifest_too_with_its_cuts(tmp_path: Path) -> None:
    silent_then_loud = np.concatenate([np.zeros(SAMPLE_RATE), 0.5 * np.ones(SAMPLE_RATE)])
    soundfile.write(tmp_path / "a.wav", silent_then_loud, SAMPLE_RATE)
    rows: list[dict[str, Any]] = [{"audio": "a.wav", "text": "", "start": 1.0, "end": 2.0}]
    options = NoiseAugmentation(1.0, [0.0, 0.0], source=str(tiny_runs.manifest_of(tmp_path, rows)))
    added = add_noise(SPEECH, options, draw()) - SPEECH
    assert np.ptp(added) < 1e-3  # only of the constant part


def test_silence_gets_no_noise_and_no_nan() -> None:
    silence = np.zeros(8000, dtype=np.float32)
    np.testing.assert_array_equal(add_noise(silence, NoiseAugmentation(1.0), draw()), silence)
    np.testing.assert_array_equal(add_room(silence, ReverberationAugmentation(1.0), draw()), silence)


def test_a_place_without_noises_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no recording to augment with; give a folder of audio files"):
        Effects.of(Augmentation(noise=NoiseAugmentation(0.5, source=str(tmp_path))), seed=1, stored=False)


@pytest.mark.parametrize(("rt60", "direct"), [(0.2, 0.0), (0.8, 6.0)])
def test_a_made_room_dies_away_as_fast_as_it_says(rt60: float, direct: float) -> None:
    response = made_room(rt60, direct, draw())
    tail = response[1:] ** 2
    assert 10 * np.log10(response[0] ** 2 / tail.sum()) == pytest.approx(direct, abs=0.1)
    tenth = len(tail) // 10
    fallen = 10 * np.log10(tail[:tenth].mean() / tail[-tenth:].mean())  # the middles of both are 0.9 rt60 apart
    assert fallen == pytest.approx(54.0, abs=3.0)


def test_a_room_leaves_the_direct_sound_where_it_was_and_as_loud() -> None:
    click = np.zeros(4000)
    click[1000] = 1.0
    delayed = np.concatenate([np.zeros(123), [1.0], np.zeros(200), [0.5]])
    heard = reverberated(click, delayed)
    assert np.argmax(np.abs(heard)) == 1000
    assert heard[1201] == pytest.approx(0.5 * heard[1000])
    room = add_room(SPEECH, ReverberationAugmentation(1.0), draw())
    assert decibels(room, SPEECH) == pytest.approx(0.0, abs=0.01)


def test_a_recorded_impulse_response_is_used(tmp_path: Path) -> None:
    hall = np.array([0.0, 0.0, 0.8, 0.0, 0.4, *[0.0] * 200])
    soundfile.write(tmp_path / "hall.wav", hall, SAMPLE_RATE, subtype="FLOAT")
    heard = add_room(SPEECH, ReverberationAugmentation(1.0, source=str(tmp_path)), draw())
    echo = SPEECH + 0.5 * np.concatenate([np.zeros(2), SPEECH[:-2]])
    np.testing.assert_allclose(heard / np.linalg.norm(heard), echo / np.linalg.norm(echo), atol=1e-6)


def test_a_telephone_passes_its_band_only() -> None:
    noise = draw(5).standard_normal(2 * SAMPLE_RATE) * 0.1
    heard = over_telephone(noise)
    for low, high in [(0, 200), (3550, 8001)]:
        assert band_power(heard, low, high) < 1e-3 * band_power(noise, low, high)
    assert band_power(heard, 400, 3300) == pytest.approx(band_power(noise, 400, 3300), rel=0.05)


def test_mu_law_is_coarse_and_relative() -> None:
    quiet, loud = 0.01 * SPEECH / np.abs(SPEECH).max(), SPEECH / np.abs(SPEECH).max()
    for samples in (quiet, loud):
        assert 20 < decibels(samples, mu_law(samples) - samples) < 45  # 16 linear bits would leave 90, or 50 at 0.01
    assert len(np.unique(mu_law(np.linspace(-1, 1, 100_001)))) == 255


def test_resampling_keeps_a_tone() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    np.testing.assert_allclose(resampled(tone, 8000), tone[::2], atol=1e-6)
    np.testing.assert_allclose(resampled(tone[::2], 16000), tone, atol=1e-6)


@pytest.mark.parametrize("codec", ["opus", "mp3", "vorbis", "gsm"])
def test_a_codec_is_heard_but_leaves_the_sound_in_its_place(codec: str) -> None:
    tone = (0.3 * np.sin(2 * np.pi * 700 * np.arange(24_017) / SAMPLE_RATE)).astype(np.float32)
    noisy = tone + 0.02 * draw(2).standard_normal(len(tone)).astype(np.float32)
    heard = through_codec(noisy, CodecAugmentation(1.0, [codec], [0.8, 0.8]), draw())
    assert heard.shape == noisy.shape
    assert 5 < decibels(noisy, heard - noisy) < 40
    middle = slice(4000, 20_000)
    fit = [np.dot(noisy[middle], np.roll(heard, -shift)[middle]) for shift in range(-11, 12)]
    assert abs(int(np.argmax(fit)) - 11) <= 1  # half a period of 700 Hz is 11 samples


# In a run


def test_stored_features_hold_a_clip_in_each_take(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, max_steps=2)
    clean = prepare(recipe, torch.device("cpu"), "no", main=False)
    noisy = dataclasses.replace(recipe, augmentation=Augmentation(takes=3, volume=VolumeAugmentation(1.0)))
    recipe.train[0].speeds = [1.0, 1.1]
    prepared = prepare(noisy, torch.device("cpu"), "no", main=False)
    source = prepared.train[0]
    clips = list(source.versions(source.examples[0]))
    assert len({clip.key() for clip in clips}) == 6
    before, after = len(clean.collator.store.index), len(prepared.collator.store.index)  # type: ignore[attr-defined]
    assert after - before == 8 * 6
    taken = {clip.take for epoch in range(20) for item in source.items(1, epoch) for clip in item.clips}
    assert taken == {"1/0", "1/1", "1/2"}
    assert source.items(1, 4) == source.items(1, 4)


def test_on_the_fly_every_epoch_has_its_own_takes_and_they_repeat(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, features=None, augmentation=Augmentation(noise=NoiseAugmentation(1.0)))
    source = prepare(recipe, torch.device("cpu"), "no", main=False).train[0]
    clips = [item.clips[0] for epoch in (0, 1) for item in source.items(1, epoch)]
    assert len({clip.take for clip in clips}) == 16
    again = source.items(1, 1)[2].clips[0]
    assert again == clips[10]
    np.testing.assert_array_equal(again.samples(), clips[10].samples())
    same_file = next(clip for clip in clips[:8] if clip.path == again.path)
    assert not np.array_equal(same_file.samples(), again.samples())


def test_evaluation_hears_the_recordings_as_they_are(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, features=None, augmentation=EVERYTHING)
    recipe.evaluation = recipe.train
    prepared = prepare(recipe, torch.device("cpu"), "no", main=False)
    assert prepared.train[0].items(1, 0)[0].clips[0].effects is not None
    assert prepared.evaluation[0].items(1, 0)[0].clips[0].effects is None


def test_moving_a_corpus_changes_no_take(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", SPEECH, SAMPLE_RATE)
    one, two = (Clip(str(tmp_path / name / "a.wav"), effects=effects(EVERYTHING), take="x") for name in ("one", "two"))
    np.testing.assert_array_equal(one.samples(), two.samples())


def test_a_run_with_every_effect_is_resumed_with_the_same_losses(tmp_path: Path) -> None:
    straight = tiny_runs.recipe(tmp_path, features=None, augmentation=EVERYTHING, save_steps=2, max_steps=4)
    train(straight)
    stopped = dataclasses.replace(straight, output_dir=str(tmp_path / "stopped"))
    train(stopped)
    for late in Path(stopped.output_dir, "checkpoints").glob("step-000004"):
        late.rename(tmp_path / "gone")
    train(stopped)
    one, other = (tiny_runs.losses(run.output_dir) for run in (straight, stopped))
    assert [row["loss"] for row in one] == [row["loss"] for row in other]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("augmentation.noise.probability=1.5", r"augmentation.noise.probability is 1.5; give .* at most 1"),
        ("augmentation.noise.snr=[20, 5]", "augmentation.noise.snr is .20.0, 5.0.; give .low, high"),
        ("augmentation.noise.colours=[blue]", "augmentation.noise.colours is .'blue'.; give some of white"),
        ("augmentation.codec.codecs=[amr]", "augmentation.codec.codecs is .'amr'.; give some of opus, mp3"),
        ("augmentation.takes=0", r"augmentation.takes is 0; give .* at least 1"),
        ("augmentation.echo=1", "'echo' is not a known option"),
    ],
)
def test_a_wrong_option_is_told(tmp_path: Path, override: str, told: str) -> None:
    (tmp_path / "r.yaml").write_text("train: [{manifest: m.jsonl}]\n")
    with pytest.raises(ConfigurationError, match=told):
        read_recipe(tmp_path / "r.yaml", [override])
