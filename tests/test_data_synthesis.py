"""`data synth` and `data splice`: seeded, the same in any number of jobs and runs, and true to what they are told."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_data import RATE, manifest, rows_of, run

from soundwave.data.manifests import read_manifest
from soundwave.data.noise import NOISE_SLOPES, with_noise
from soundwave.datatools import synthesize, voices
from soundwave.datatools.synthesize import Clip, Line, Noise, read_lines, synthesise
from soundwave.datatools.voices import Ranges, Take, check_variants, check_voices, draw_take, own_pitch, speak
from soundwave.errors import ConfigurationError, DataError
from soundwave.files import JsonLines

TEXTS = ["Good morning to you.", "The river is wide here.", "Nobody knew the way.", "It rained all night."]
NOTES = ("made-with.json", ".manifest.jsonl.lock")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")


def made(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the notes of a run."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in NOTES}


# --- voices and synthesis


def test_each_draw_is_the_recipes_own() -> None:
    # The shipped recipe's clips depend on these figures: a change here changes its data.
    drawn = {voice: draw_take(voice, random.Random("3/0")) for voice in ("flite:slt", "espeak:en-us", "piper:joe")}
    assert drawn["flite:slt"].speaker == "flite:slt/tempo1.14/pitch140/tract1.00"
    assert drawn["espeak:en-us"].speaker == "espeak:en-us/tempo180.67/pitch31/tract1.00"
    assert drawn["piper:joe"].speaker == "piper:joe/tempo1.14/pitch31/tract1.00"


def test_a_voice_is_drawn_around_its_own_pitch() -> None:
    ranges = Ranges(speed=(1.0, 1.0), pitch=(1.0, 1.0), tract=(1.0, 1.0))
    own = {"flite:slt": 172.0, "festival:kal": 105.0, "rhvoice:clb": 100.0}
    assert {voice: draw_take(voice, random.Random(0), ranges).pitch for voice in own} == own


@pytest.mark.parametrize("voice", ["flite:rms", "espeak:en-us", "piper:joe"])
def test_speeds_and_pitches_stay_in_the_ranges_that_are_asked_for(voice: str) -> None:
    ranges = Ranges(speed=(1.0, 1.25), pitch=(1.0, 1.1), tract=(1.0, 1.0))
    takes = [draw_take(voice, random.Random(n), ranges) for n in range(50)]
    tempo = {"espeak:en-us": (160, 200)}.get(voice, (0.8, 1.0))
    assert all(tempo[0] <= take.tempo <= tempo[1] for take in takes)
    assert len({take.tempo for take in takes}) == 50
    assert all(take.tract == 1.0 for take in takes)
    if voice == "flite:rms":
        assert all(100 <= take.pitch <= 110 for take in takes)


@pytest.mark.parametrize(
    ("voice", "told"),
    [
        ("slt", "voice 'slt': write ENGINE:VOICE with one of the engines flite, espeak, festival"),
        ("nobody:x", "write ENGINE:VOICE"),
        ("piper:none.onnx", "there is no file none.onnx; give a .onnx file, or piper:joe"),
    ],
)
def test_a_voice_that_is_not_there_is_named(voice: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        check_voices([voice])


LISTED = {
    ("flite", "-lv"): "Voices available: kal awb slt \n",
    ("festival", "-b", "(print (voice.list))"): "(cmu_us_slt_arctic_hts ked_diphone kal_diphone)\n",
    ("espeak-ng", "--voices"): """Pty Language       Age/Gender VoiceName          File                 Other Languages
 5  de              --/M      German             gmw/de
 2  en-gb           --/M      English_(Great_Britain) gmw/en               (en 2)
 2  en-us           --/M      English_(America)  gmw/en-US            (en 3)
""",
    ("espeak-ng", "--voices=variant"): """Pty Language       Age/Gender VoiceName          File
 5  variant         --/F      female2            !v/f2
 5  variant         --/M      Mr_Serious         !v/Mr serious
""",
}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both programs are there, with few voices; en-gb is spoken without its variant."""
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "mbrola" else name)

    def output(*command: str) -> bytes:
        return (LISTED[command] if command in LISTED else command[2].replace("en-gb+f2", "en-gb")).encode()

    monkeypatch.setattr(voices, "_output", output)


@pytest.mark.parametrize(
    ("voice", "told"),
    [
        ("flite:nobody", "flite has no voice nobody; it has kal, awb, slt"),
        ("festival:kai", "festival has no diphone voice kai; near it are kal"),
        ("festival:cmu_us_slt_arctic_hts", "festival has no diphone voice cmu_us_slt_arctic_hts; it has ked, kal"),
        ("espeak:zz", "espeak-ng has no voice zz; it has de, german, gmw/de, en-gb"),
        ("espeak:en-zz", "espeak-ng has no voice en-zz; near it are .*en-us.*`espeak-ng --voices` lists all"),
        ("espeak:en-us+f3", "espeak-ng has no variant f3; near it are f2"),
        ("espeak:en-us+female2", "espeak-ng has no variant female2; it has f2, "),
    ],
)
def test_a_voice_that_its_engine_does_not_list_is_refused(listed: None, voice: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"voice '{re.escape(voice)}': {told}"):
        check_voices(["flite:slt", "espeak:en-gb", voice])


def test_a_voice_may_have_any_of_its_names(listed: None) -> None:
    check_voices(["flite:awb", "espeak:EN-us", "espeak:en", "espeak:gmw/en-US", "espeak:german", "espeak:de+12"])
    check_voices(["festival:ked", "espeak:en-us+f2", "espeak:english (america)+Mr serious"])


def test_a_variant_that_changes_nothing_is_refused(listed: None) -> None:
    check_variants(["flite:slt", "espeak:en-gb", "espeak:en-us+f2"])
    with pytest.raises(ConfigurationError, match=r"ignores the variant; write espeak:gmw/en\+f2, or another voice's"):
        check_variants(["espeak:en-gb+f2"])


@needs_espeak
def test_the_programs_own_lists_are_read(tmp_path: Path) -> None:
    check_voices(["espeak:en-gb", "espeak:en-us+f2", "espeak:gmw/en+f2"])
    check_variants(["espeak:en-us+f2", "espeak:gmw/en+f2"])
    (tmp_path / "texts.txt").write_text(TEXTS[0])
    refused = run("synth", tmp_path / "texts.txt", tmp_path / "out", "--voices", "espeak:en-us,espeak:zz")
    assert refused.exit_code == 2
    assert "espeak-ng has no voice zz" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_program_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    told = {
        "espeak:en-us": "needs the program espeak-ng; apt-get install espeak-ng",
        "festival:kal": "needs the program text2wave; apt-get install festival festvox-kallpc16k",
        "rhvoice:bdl": "needs the program RHVoice-test; apt-get install rhvoice rhvoice-english, .*non-free",
    }
    for voice, what in told.items():
        with pytest.raises(ConfigurationError, match=what):
            check_voices([voice])


@needs_espeak
def test_espeak_speaks_faster_when_told() -> None:
    slow, fast = (len(speak(TEXTS[0], Take("espeak:en-us", words, 50, 1.0))) for words in (120, 240))
    assert fast < 0.75 * slow


@pytest.fixture(params=["festival:kal", "festival:ked", "rhvoice:bdl", "rhvoice:slt"])
def voice(request: pytest.FixtureRequest) -> str:
    try:
        check_voices([request.param])
    except ConfigurationError as missing:
        pytest.skip(str(missing))
    return request.param


def test_speed_pitch_and_timbre_of_a_voice_are_those_of_its_take(voice: str) -> None:
    pitch = own_pitch(*voice.split(":"))
    ways = (1.0, pitch), (1.5, pitch), (1.0, 1.3 * pitch)
    plain, slow, high = (speak(TEXTS[0], Take(voice, *way, 1.0)) for way in ways)
    assert 1.3 < len(slow) / len(plain) < 1.6
    assert len(high) == pytest.approx(len(plain), rel=0.05)
    assert hertz(high) / hertz(plain) == pytest.approx(1.3, abs=0.12)
    assert len(speak(TEXTS[0], Take(voice, 1.0, pitch, 1.1))) == pytest.approx(len(plain) / 1.1, rel=0.01)


def test_a_voice_reads_the_text_and_nothing_in_it_is_an_order(voice: str) -> None:
    take = Take(voice, 1.0, own_pitch(*voice.split(":")), 1.0)
    said = len(speak("Nobody (exit) knew it's \"here\".", take))
    assert said == pytest.approx(len(speak("Nobody exit knew it's here.", take)), rel=0.3)
    with pytest.raises(RuntimeError, match=r"gave no sound|no usable clip"):
        synthesize.record("...", take, 0, Path("none.flac"))


def hertz(samples: np.ndarray) -> float:
    """The pitch, from 75 to 260 Hz: the median, over loud pieces of 64 ms, of where each is most like itself."""
    pieces = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024)
    loud = pieces[np.abs(pieces).mean(axis=1) > np.abs(samples).mean()]
    window, first, last = np.hanning(1024), RATE // 260, RATE // 75
    likeness, fade = (np.fft.irfft(np.abs(np.fft.rfft(one, 2048)) ** 2) for one in (loud * window, window))
    return float(np.median(RATE / (first + np.argmax(likeness[:, first:last] / fade[first:last], axis=1))))


def test_rhvoice_has_the_english_voices_of_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setenv("RHVOICE_DATA_PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"no English voice at all; install one \(docs/data.md"):
        check_voices(["rhvoice:bdl"])
    for name, language in (("bdl", "English"), ("clb", "English"), ("anna", "Russian")):
        (tmp_path / "voices" / name).mkdir(parents=True)
        (tmp_path / "voices" / name / "voice.info").write_text(f"name={name}\nlanguage={language}\n")
    check_voices(["rhvoice:bdl", "rhvoice:clb"])
    with pytest.raises(ConfigurationError, match="RHVoice has no English voice anna; it has bdl, clb"):
        check_voices(["rhvoice:anna"])


@needs_espeak
def test_the_same_seed_gives_the_same_clips_in_any_jobs_and_after_a_stop(tmp_path: Path) -> None:
    lines = [Line(text, {"kind": "prose"}) for text in TEXTS]
    settings: dict[str, Any] = {"seed": 5, "noise": Noise((5.0, 15.0), 0.5)}
    voices = ["espeak:en-us", "espeak:en-gb"]
    one, four, stopped = tmp_path / "one", tmp_path / "four", tmp_path / "stopped"
    assert synthesise(lines, one, voices, **settings).clips == 4
    assert synthesise(lines, four, voices, jobs=3, **settings).clips == 4
    synthesise(lines[:2], stopped, voices, **settings)
    (stopped / "000001.flac").write_bytes(b"half")
    rows = (stopped / "manifest.jsonl").read_bytes()
    (stopped / "manifest.jsonl").write_bytes(rows[:-20])  # stopped while the second row was written
    again = synthesise(lines, stopped, voices, **settings)
    assert (again.clips, again.before) == (3, 1)
    assert made(one) == made(four) == made(stopped)
    assert len(made(one)) == 5
    assert synthesise(lines, tmp_path / "other", voices, seed=6).clips == 4
    assert made(tmp_path / "other") != made(one)


def test_two_runs_never_add_to_one_file(tmp_path: Path) -> None:
    manifest = tmp_path / "speech" / "manifest.jsonl"
    with JsonLines(manifest) as rows:
        rows.add({"audio": "000000.flac", "text": "Grüße", "duration": 1.0})
        with pytest.raises(ConfigurationError, match=r"Another run is adding to .*manifest.jsonl; wait for its end"):
            synthesise([Line(TEXTS[0], {})], manifest.parent, ["espeak:en-us"])
        assert manifest.read_text(encoding="utf-8").count("\n") == 1  # each row is on disk at once
    with JsonLines(manifest) as rows:
        assert [row["text"] for row in rows.earlier] == ["Grüße"]


@needs_espeak
def test_rows_say_what_is_in_the_clips(tmp_path: Path) -> None:
    synthesise([Line(TEXTS[0], {"language": "en"})], tmp_path, ["espeak:en-us"])
    (row,) = rows_of(tmp_path / "manifest.jsonl")
    samples, rate = soundfile.read(tmp_path / row["audio"])
    assert rate == RATE
    assert row["duration"] == pytest.approx(len(samples) / rate, abs=1e-3)
    assert (row["text"], row["language"], row["speaker"][:13]) == (TEXTS[0], "en", "espeak:en-us/")
    (example,) = read_manifest(tmp_path / "manifest.jsonl")
    assert example.transcript == "good morning to you"


@needs_espeak
@pytest.mark.parametrize("jobs", [1, 3])
def test_enough_hours_are_enough_and_nothing_is_left_over(tmp_path: Path, jobs: int) -> None:
    done = synthesise([Line(text) for text in TEXTS], tmp_path, ["espeak:en-us"], hours=2 / 3600, jobs=jobs)
    assert 2.0 <= done.seconds < 5.0
    rows = rows_of(tmp_path / "manifest.jsonl")
    assert {path.name for path in tmp_path.glob("*.flac")} == {row["audio"] for row in rows}
    assert len(rows) == done.clips < len(TEXTS)


@needs_espeak
def test_a_text_that_gives_no_speech_is_told_and_left_out(tmp_path: Path) -> None:
    told: list[tuple[Clip, Exception]] = []
    done = synthesise(
        [Line("..."), Line(TEXTS[0])], tmp_path, ["espeak:en-us"], on_dropped=lambda *why: told.append(why)
    )
    assert (done.clips, done.dropped, told[0][0].line.text) == (1, 1, "...")
    assert [row["audio"] for row in rows_of(tmp_path / "manifest.jsonl")] == ["000001.flac"]


@pytest.mark.parametrize("kind", NOISE_SLOPES)
def test_noise_is_as_loud_as_asked_for(kind: str) -> None:
    speech = np.sin(np.arange(16_000) / 9).astype(np.float32)
    noisy = with_noise(speech, 10.0, kind, np.random.default_rng(0))
    ratio = np.mean(speech.astype(float) ** 2) / np.mean((noisy - speech).astype(float) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(10.0, abs=0.05)


def test_texts_are_read_once_each_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One  day.\n\nTwo days.\n")
    other = manifest(tmp_path, {"q": "Two days."}, {"q": "Three?", "kind": "question", "x": 1}, name="b.jsonl")
    lines = list(read_lines([tmp_path / "a.txt"])) + list(read_lines([other], "q"))
    assert [line.text for line in lines] == ["One day.", "Two days.", "Two days.", "Three?"]
    assert lines[-1].fields == {"kind": "question"}
    with pytest.raises(DataError, match=r"b.jsonl:1: no text in the field 'text'; --field names another one"):
        list(read_lines([other]))
    with pytest.raises(DataError, match="no such file of texts"):
        list(read_lines([tmp_path / "none.txt"]))


@needs_espeak
def test_the_command_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join(TEXTS[:2]))
    order = ["synth", tmp_path / "t.txt", tmp_path / "out", "--voices", "espeak:en-us", "--speed", "0.9:1.1"]
    first = run(*order, "--takes", 2, "-j", 2)
    assert first.exit_code == 0
    assert "4 clips made now, 0 before, 0 dropped" in first.stdout
    assert "0 clips made now, 4 before" in run(*order, "--takes", 2).stdout
    other = run(*order, "--takes", 2, "--seed", 1)
    assert other.exit_code == 2
    assert "holds clips made with seed 0, not 1; give the same settings to go on, or another folder" in other.stderr
    for wrong in (["--speed", "fast"], ["--speed", "2:1"], ["--noise", "x"], ["--voices", "x"]):
        assert run("synth", tmp_path / "t.txt", tmp_path / "new", "--voices", "espeak:en", *wrong).exit_code == 2
    assert not (tmp_path / "new").exists()


# --- splicing
