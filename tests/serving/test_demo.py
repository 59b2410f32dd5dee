"""The demo without a browser: what it accepts, keeps, forgets and says."""

from __future__ import annotations

import asyncio
import base64
import os
import runpy
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from cli_runs import run

import soundwave
from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.errors import AudioTooLongError, ConfigurationError, SoundwaveError
from soundwave.inference.captions import Final, Partial
from soundwave.inference.results import Segment, Transcript, Word
from soundwave.serving.demo.about import facts_table, limits, summary
from soundwave.serving.demo.conversation import Asked, answers, read_by_model, shown
from soundwave.serving.demo.microphones import FORGOTTEN_AFTER, Microphones
from soundwave.serving.demo.options import DemoOptions, is_loopback
from soundwave.serving.demo.player import clock, length, transcript_html
from soundwave.serving.demo.visits import Recording, Visit, Visits, keep

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine() -> soundwave.Engine:
    return tiny.engine()


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def transcript(*words: Word) -> Transcript:
    text = " ".join(word.text for word in words)
    return Transcript(text, text, 1.0, segments=[Segment(text, words[0].start, words[-1].end, words)] if words else [])


def recording(folder: Path, name: str = "talk.mp3") -> Recording:
    return Recording(name, folder, 1.0)


@pytest.mark.parametrize(
    ("host", "reachable"),
    [
        ("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("192.168.1.5", True),
        ("a.org", True),
    ],
)
def test_it_listens_where_others_are_only_if_that_was_asked_for(host: str, reachable: bool) -> None:
    assert is_loopback(host) is not reachable
    DemoOptions(host=host, insecure=True)
    if reachable:
        with pytest.raises(ConfigurationError, match="--insecure"):
            DemoOptions(host=host)


def test_the_verb_refuses_such_an_address_before_any_model_is_loaded() -> None:
    result = run("demo", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "--insecure" in result.stderr


def test_a_recording_is_kept_as_it_is_heard_under_a_name_that_nobody_guesses(tmp_path: Path) -> None:
    sound = tiny.sound(0.5)
    first, second = (keep((sound, SAMPLE_RATE), "a", tmp_path, 10) for _ in range(2))
    assert first.folder != second.folder
    assert len(first.folder.name) >= 32
    assert load_audio(first.sound) == pytest.approx(np.clip(sound, -1, 1), abs=1e-4)
    first.forget()
    assert list(tmp_path.iterdir()) == [second.folder]


def test_a_recording_that_is_too_long_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AudioTooLongError):
        keep((tiny.sound(3), SAMPLE_RATE), "a", tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kept"), [("talk.mp3", "talk.srt"), ("../../etc/passwd", "passwd.srt"), ("a b%2f.wav", "a_b_2f.srt"),
                       ("..", "recording.srt"), ("é" * 300, "é" * 60 + ".srt")],
)
def test_a_download_has_the_recordings_name_and_stays_in_its_folder(tmp_path: Path, name: str, kept: str) -> None:
    assert recording(tmp_path, name).download("srt") == tmp_path / kept


def test_visitors_have_their_own_and_are_forgotten_when_they_leave_or_stay_away(tmp_path: Path) -> None:
    now = Clock()
    visits = Visits(60, now)
    for name in ("first", "second"):
        visits.of(name).recording = keep((tiny.sound(0.1), SAMPLE_RATE), name, tmp_path, 10)
    first = visits.of("first")
    assert first.recording is not None
    assert first.recording.name == "first"
    now.now = 50.0
    visits.of("second")
    now.now = 70.0
    visits.sweep()
    assert (len(visits), len(list(tmp_path.iterdir()))) == (1, 1)
    assert first.gone
    assert first.stopped.is_set()
    visits.end("second")
    assert (len(visits), list(tmp_path.iterdir())) == (0, [])


def test_words_say_when_they_were_said_and_how_sure_they_are_not_by_colour_alone(tmp_path: Path) -> None:
    sure, less = Word("sure", 0.0, 0.5, 0.95), Word("less", 0.5, 1.0, 0.6)
    guess, unknown = Word("guess", 1.0, 1.5, 0.2), Word("42", 1.5, 2.0)
    html = transcript_html(transcript(sure, less, guess, unknown), recording(tmp_path))
    assert '<span class="sw-word" data-start="0.00" data-end="0.50" title="95% sure">sure</span>' in html
    assert '<span class="sw-word sw-unsure" data-start="0.50" data-end="1.00" title="60% sure">less</span>' in html
    assert 'title="20% sure">guess</span><sup aria-label="probably misheard">?</sup>' in html
    assert '<span class="sw-word" data-start="1.50" data-end="2.00">42</span>' in html
    assert '<button type="button" class="sw-time" data-seek="0.00" aria-label="Play from 0:00">' in html


def test_what_is_said_and_what_files_are_called_is_text_to_the_page(tmp_path: Path) -> None:
    code = "<img src=x onerror=alert(1)>\"'"
    html = transcript_html(transcript(Word(code, 0, 1, 0.9)), recording(tmp_path, code))
    assert "<img" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;") == 3  # the name twice, the word


def test_where_nobody_speaks_the_page_says_so(tmp_path: Path) -> None:
    assert "No speech was found" in transcript_html(transcript(), recording(tmp_path))
    assert transcript_html(transcript(), recording(tmp_path), whole=False) == ""


def test_times_are_told_in_minutes_and_seconds() -> None:
    assert [clock(0), clock(9.9), clock(75.2), clock(3600)] == ["0:00", "0:09", "1:15", "60:00"]
    assert [length(2), length(600)] == ["2 seconds", "10 minutes"]


def sixteen_bits(samples: np.ndarray) -> np.ndarray:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2")


def test_a_recording_is_the_same_however_its_pieces_come(engine: soundwave.Engine, tmp_path: Path) -> None:
    sound = sixteen_bits(tiny.sound(3.0))
    microphones, whole = Microphones(engine, tmp_path, 60, 4), []
    for piece in (1600, 20_000, 48_000):
        name = microphones.begin(SAMPLE_RATE)
        events = [event for i in range(0, len(sound), piece) for event in microphones.feed(name, sound[i : i + piece])]
        events += microphones.end(name)
        whole.append([event.text for event in events if isinstance(event, Final)])
        path = microphones.fetch(name)
        assert np.array_equal(sixteen_bits(load_audio(path)), sound) or np.allclose(
            load_audio(path), sound / 32768, atol=1e-4
        )
        assert all(isinstance(event, Partial | Final) for event in events)
    assert whole[0] == whole[1] == whole[2]


def test_a_recording_ends_at_its_longest_and_can_still_be_fetched(engine: soundwave.Engine, tmp_path: Path) -> None:
    microphones = Microphones(engine, tmp_path, 1.0, 4)
    name = microphones.begin(SAMPLE_RATE)
    microphones.feed(name, sixteen_bits(tiny.sound(1.5)))
    with pytest.raises(AudioTooLongError):
        microphones.feed(name, sixteen_bits(tiny.sound(0.1)))
    microphones.end(name)
    assert len(load_audio(microphones.fetch(name))) == SAMPLE_RATE
    with pytest.raises(SoundwaveError, match="record it again"):
        microphones.fetch(name)


def test_no_more_record_at_once_than_allowed_and_who_stays_away_is_forgotten(
    engine: soundwave.Engine, tmp_path: Path
) -> None:
    now = Clock()
    microphones = Microphones(engine, tmp_path, 60, 1, now)
    left = microphones.begin(SAMPLE_RATE)
    with pytest.raises(SoundwaveError, match="upload a file"):
        microphones.begin(SAMPLE_RATE)
    now.now = FORGOTTEN_AFTER + 1
    ended = microphones.begin(SAMPLE_RATE)
    with pytest.raises(SoundwaveError, match="begin another"):
        microphones.feed(left, np.zeros(10, np.int16))
    microphones.end(ended)
    now.now *= 2.1
    microphones.sweep()
    assert list(tmp_path.iterdir()) == []


def visit_of(*messages: str, text: str = "hello there") -> Visit:
    visit = Visit(recording(Path("folder")), transcript(*(Word(word, 0, 1) for word in text.split())))
    roles = ("user", "assistant")
    visit.messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(messages)]
    return visit


def test_by_way_of_the_transcript_the_model_reads_the_words_on_the_page() -> None:
    visit = visit_of("Who?", "Me.", "Why?", "")
    assert read_by_model(visit, "transcript") == [
        {"role": "user", "content": "hello there\n\nWho?"}, {"role": "assistant", "content": "Me."},
        {"role": "user", "content": "Why?"},
    ]
    assert read_by_model(visit_of("", ""), "transcript") == [{"role": "user", "content": "hello there"}]


def test_by_way_of_the_audio_it_reads_the_recording() -> None:
    sound = {"type": "audio", "audio": Path("folder/recording.wav")}
    assert read_by_model(visit_of("Who?", ""), "audio")[0]["content"] == [sound, {"type": "text", "text": "Who?"}]
    assert read_by_model(visit_of("", ""), "audio")[0]["content"] == [sound]


def test_a_spoken_question_is_quoted_on_the_page() -> None:
    assert shown(visit_of("", "Hi."))[0]["content"] == "“hello there”"


def test_an_answer_that_is_stopped_stays_as_far_as_it_is(engine: soundwave.Engine) -> None:
    visit = Visit()
    running = answers(engine, visit, Asked("Say something", max_new_tokens=200))
    assert shown(visit) == []
    while next(running) is None and not (visit.messages and visit.messages[-1]["content"]):
        assert shown(visit) == [{"role": "user", "content": "Say something"}]
    visit.stopped.set()
    assert list(running) == []
    assert [message["role"] for message in visit.messages] == ["user", "assistant"]


def test_an_answer_that_is_stopped_before_its_first_word_leaves_nothing(engine: soundwave.Engine) -> None:
    visit = Visit()
    running = answers(engine, visit, Asked("Say something"))
    next(running)
    running.close()
    assert visit.messages == []


def test_a_question_that_cannot_be_answered_leaves_the_conversation_as_it_was(engine: soundwave.Engine) -> None:
    visit = Visit()
    with pytest.raises(SoundwaveError):
        list(answers(engine, visit, Asked("word " * 5_000)))
    assert visit.messages == []
    with pytest.raises(SoundwaveError, match="no question"):
        list(answers(engine, visit, Asked("")))
    with pytest.raises(SoundwaveError, match="stands above already"):
        list(answers(engine, visit_of("Who?", "Me."), Asked("")))
    with pytest.raises(SoundwaveError, match="nobody speaks"):
        list(answers(engine, visit_of(text=""), Asked("What is it?", via="transcript")))


@pytest.fixture
def actions(engine: soundwave.Engine, tmp_path: Path) -> Any:
    pytest.importorskip("gradio")
    from soundwave.serving.demo.actions import Actions

    return Actions(engine, DemoOptions(max_seconds=5), tmp_path)


def by(session: str) -> Any:
    return SimpleNamespace(session_hash=session)


def test_a_file_that_is_no_audio_is_named_and_deleted(actions: Any, tmp_path: Path) -> None:
    file = tmp_path / "notes.wav"
    file.write_bytes(b"to do: buy milk " * 40)
    *_, last = actions.uploaded(str(file), by("one"))
    assert 'role="alert"' in last.status
    assert "notes.wav is not audio" in last.status
    assert str(tmp_path) not in last.status
    assert list(tmp_path.iterdir()) == []


def test_a_visitor_who_leaves_meanwhile_leaves_nothing(actions: Any, tmp_path: Path) -> None:
    upload = tmp_path / "a.wav"
    upload.write_bytes((ROOT / "examples" / "question.wav").read_bytes())
    steps = actions.uploaded(str(upload), by("one"))
    next(steps)
    actions.leave(by("one"))
    list(steps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "given", "told"),
    [
        ("begin", None, "Rate is missing"), ("begin", {"rate": "fast"}, "Rate is missing"),
        ("begin", {"rate": 1}, "sampling rate"), ("feed", {}, "Samples is missing"),
        ("feed", {"token": "x", "samples": "~~"}, "base64"), ("feed", {"token": "x", "samples": "AAAA"}, "16-bit"),
        ("feed", {"token": "x", "samples": "AAA="}, "begin another"), ("end", {"token": ["x"]}, "Token is missing"),
    ],
)
def test_whatever_is_sent_to_the_microphone_gets_a_sentence_back(
    actions: Any, call: str, given: Any, told: str
) -> None:
    assert told.lower() in getattr(actions, call)(given)["error"].lower()


def test_captions_come_with_what_stands_and_what_may_change(actions: Any) -> None:
    token = actions.begin({"rate": SAMPLE_RATE})["token"]
    sound = base64.b64encode(sixteen_bits(tiny.sound(1.0)).tobytes()).decode()
    answer = actions.feed({"token": token, "samples": sound})
    assert "error" not in answer
    assert all(set(event) <= {"standing", "changing", "final", "text"} for event in answer["events"])
    assert "error" not in actions.end({"token": token})


def test_the_page_says_what_the_model_is_and_what_its_card_says_against_it(engine: soundwave.Engine) -> None:
    engine_of_mini = SimpleNamespace(folder=ROOT / "models" / "soundwave-mini")
    told = limits(engine_of_mini)  # type: ignore[arg-type]
    assert told.startswith("- It hears English only.")
    assert "](" not in told
    assert "Licence" not in told
    assert "No card" in limits(engine)
    assert summary(engine).startswith("tiny · ")
    assert "10 minutes, 100 MB" in facts_table(engine, DemoOptions())


@pytest.mark.parametrize(("path", "passes"), [("/gradio_api/component_server", False), ("/gradio_api/upload", True)])
def test_a_body_that_is_no_upload_is_bounded(path: str, passes: bool) -> None:
    pytest.importorskip("gradio")
    from soundwave.serving.demo.launching import MOST_BODY, BoundedBodies

    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append((await receive())["type"])
        received.append((await receive())["type"])

    async def receive() -> Any:
        return {"type": "http.request", "body": bytes(MOST_BODY // 2 + 1), "more_body": True}

    asyncio.run(BoundedBodies(app)({"type": "http", "path": path}, receive, None))  # type: ignore[arg-type]
    assert received == ["http.request", "http.request" if passes else "http.disconnect"]


def test_the_space_serves_everybody_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    from soundwave.serving.demo import launching

    seen: list[Any] = []

    @contextmanager
    def served(engine: Any, options: DemoOptions) -> Iterator[str]:
        seen.extend([engine, options.host, options.port])
        yield "http://somewhere"

    monkeypatch.setattr(launching, "served", served)
    monkeypatch.setattr(soundwave, "load", lambda name: f"loaded {name}", raising=False)
    monkeypatch.setattr(threading.Event, "wait", lambda self: None)
    monkeypatch.setitem(os.environ, "GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setitem(os.environ, "GRADIO_SERVER_PORT", "7999")
    runpy.run_path(str(ROOT / "spaces" / "app.py"), run_name="__main__")
    assert seen == ["loaded mini", "0.0.0.0", 7999]


def test_the_spaces_card_names_its_file_and_a_gradio_that_the_extra_allows() -> None:
    yaml = pytest.importorskip("yaml")
    head = yaml.safe_load((ROOT / "spaces" / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (ROOT / "spaces" / head["app_file"]).is_file()
    assert head["sdk"] == "gradio"
    assert tuple(map(int, head["sdk_version"].split("."))) >= (6, 20)
    assert "soundwave-llm[demo]" in (ROOT / "spaces" / "requirements.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM"])
def test_it_is_told_to_stop_as_often_as_one_likes(sign: str) -> None:
    pytest.importorskip("gradio")
    from soundwave.serving.demo.launching import told_to_stop

    with told_to_stop() as stop:
        for _ in range(2):
            os.kill(os.getpid(), getattr(signal, sign))
        assert stop.wait(5)
