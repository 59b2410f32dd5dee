"""The WebSocket /v1/realtime, used by a real client: what is said comes while it is said, and every end is clear."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny
from running import KEY, Running, running
from saying import SayingEngine
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.inference.captions import Final, Partial

EXAMPLES = Path(__file__).parents[2] / "examples"
SECOND = np.zeros(SAMPLE_RATE, np.int16)
PATIENCE = 20.0  # s


@contextmanager
def session(server: Running, **options: Any) -> Iterator[ClientConnection]:
    """A connection that has seen `session.created`."""
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime", **options) as made:
        assert got(made)["type"] == "session.created"
        yield made


def got(connection: ClientConnection) -> dict[str, Any]:
    return json.loads(connection.recv(timeout=PATIENCE))


def send(connection: ClientConnection, kind: str, **fields: Any) -> None:
    connection.send(json.dumps({"type": kind, **fields}))


def say(connection: ClientConnection, samples: np.ndarray = SECOND) -> None:
    send(connection, "input_audio_buffer.append", audio=base64.b64encode(samples.astype("<i2").tobytes()).decode())


def commit(connection: ClientConnection, final: bool = True) -> None:
    send(connection, "input_audio_buffer.commit", final=final)


def rest(connection: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """All messages up to the close, and its code."""
    messages = []
    while True:
        try:
            messages.append(got(connection))
        except ConnectionClosed as closed:
            return messages, closed.rcvd.code if closed.rcvd else 0


def error_of(message: dict[str, Any]) -> dict[str, Any]:
    assert message["type"] == "error", message
    assert set(message["error"]) == {"message", "type", "param", "code", "event_id"}
    return message["error"]


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


@pytest.fixture(scope="module")
def engine() -> SayingEngine:
    return SayingEngine()


@pytest.fixture(scope="module")
def server(engine: SayingEngine) -> Iterator[Running]:
    with running(engine, max_live=2) as made:
        yield made


# --- what is said ----------------------------------------------------------------------------------------------------


def test_words_come_while_they_are_said_and_whole_at_the_end(server: Running) -> None:
    with session(server) as live:
        for _ in range(4):
            say(live)
        commit(live)
        messages, code = rest(live)
    kinds = [message["type"].partition(".")[2] for message in messages]
    assert kinds == ["delta", "delta", "delta", "segment", "delta", "delta", "segment", "done"]
    assert code == 1000
    deltas = [message["delta"] for message in messages if message["type"] == "transcription.delta"]
    assert deltas == ["", "w0", " w1 w2", "", " w3"]
    assert [message["text"] for message in messages[:3]] == ["w0", "w0 w1", "w0 w1 w2"]
    first, second = (message for message in messages if message["type"] == "transcription.segment")
    assert (first["utterance"], second["utterance"]) == (0, 1)
    assert first["words"][1] == {"word": "w1", "start": 0.5, "end": 0.9, "probability": 0.9}
    done = messages[-1]
    assert done["text"] == "w0 w1 w2 w3"
    assert [word["word"] for word in done["words"]] == ["w0", "w1", "w2", "w3"]
    assert [(one["id"], one["text"]) for one in done["segments"]] == [(0, "w0 w1 w2"), (1, "w3")]
    assert (done["language"], done["duration"], done["usage"]) == ("en", 4.0, {"type": "duration", "seconds": 4.0})


@pytest.mark.filterwarnings("ignore:this machine is too slow")
def test_the_events_are_those_of_the_python_api() -> None:
    """Fed in pieces of any length, as int16, beside another session."""
    engine = tiny.engine(llm=False)
    spoken = load_audio(EXAMPLES / "question.wav")
    samples = (np.concatenate([spoken, np.zeros(SAMPLE_RATE), spoken]) * 32_767).astype(np.int16)
    expected = []
    with engine.listen() as python:
        for begin in range(0, len(samples), SAMPLE_RATE // 2):
            expected += python.feed(samples[begin : begin + SAMPLE_RATE // 2])
        expected += python.finish()
    with running(engine) as server, session(server) as other, session(server) as live:
        say(other, samples[:5000])
        for piece in np.split(samples, [1, 777, 20_000, 20_001, 30_000]):
            say(live, piece)
        commit(live)
        messages, code = rest(live)
    finals = [message for message in messages if message["type"] == "transcription.segment"]
    assert [(one["text"], one["start"], one["end"]) for one in finals] == [
        (one.text, one.start, one.end) for one in expected if isinstance(one, Final)
    ]
    assert len(finals) >= 2
    assert code == 1000
    partials = {one.text for one in expected if isinstance(one, Partial)}
    shown = [one["text"] for one in messages if one["type"] == "transcription.delta"]
    assert partials & set(shown)  # on a slow machine, not all of them
    assert messages[-1]["text"] == " ".join(one.text for one in expected if isinstance(one, Final))


def test_a_session_that_is_ended_without_sound_has_said_nothing(server: Running) -> None:
    with session(server) as live:
        commit(live)
        (done,), code = rest(live)
    assert (done["type"], done["text"], done["words"], done["usage"]["seconds"], code) == (
        "transcription.done", "", [], 0.0, 1000,
    )


def test_a_commit_that_is_not_final_says_how_far_the_sound_was_heard(server: Running) -> None:
    with session(server) as live:
        commit(live, final=False)
        assert got(live) == {"type": "input_audio_buffer.committed", "audio_seconds": 0.0}
        say(live)
        commit(live, final=False)
        assert got(live)["type"] == "transcription.delta"
        assert got(live) == {"type": "input_audio_buffer.committed", "audio_seconds": 1.0}


def test_a_session_is_set_up_before_any_sound(server: Running, engine: SayingEngine) -> None:
    with session(server) as live:
        send(live, "session.update", session={"sampling_rate": 8000, "hotwords": ["Soundwave"], "language": "english"})
        updated = got(live)
        assert updated["type"] == "session.updated"
        assert updated["session"]["id"].startswith("sess_")
        assert {name: updated["session"][name] for name in ("sampling_rate", "hotwords", "step", "model")} == {
            "sampling_rate": 8000, "hotwords": ["Soundwave"], "step": 0.16, "model": "tiny",
        }
        send(live, "session.update", session={"step": 0.5})
        assert got(live)["session"]["sampling_rate"] == 8000
        say(live, np.zeros(8000, np.int16))
        assert got(live)["text"] == "w0"
        made = engine.sessions[-1]
        assert (made.sampling_rate, made.options.hotwords, made.options.step) == (8000, ("Soundwave",), 0.5)
        send(live, "session.update", session={"step": 0.5})
        assert error_of(got(live))["code"] == "session_begun"


# --- mistakes, after which a session goes on -------------------------------------------------------------------------

APPEND = "input_audio_buffer.append"
MISTAKES: list[tuple[Any, str | None, str]] = [
    ("no json", None, "invalid_json"), ("{", None, "invalid_json"), ("[" * 100_000, None, "invalid_json"),
    ("[]", "type", "unknown_type"), ("7", "type", "unknown_type"), ("{}", "type", "unknown_type"),
    ({"type": "session.upddate"}, "type", "unknown_type"), ({"type": ["x"]}, "type", "unknown_type"),
    ({"type": "response.create"}, "type", "unknown_type"), ({"type": APPEND}, "audio", "missing_required_parameter"),
    ({"type": APPEND, "audio": 7}, "audio", "invalid_value"),
    ({"type": APPEND, "audio": "?"}, "audio", "invalid_audio"),
    ({"type": APPEND, "audio": "AAA"}, "audio", "invalid_audio"),
    ({"type": APPEND, "audio": "AAAA"}, "audio", "invalid_audio"),
    ({"type": APPEND, "audio": "AAA=", "rate": 8000}, "rate", "unknown_parameter"),
    ({"type": "input_audio_buffer.commit", "final": "perhaps"}, "final", "invalid_value"),
    ({"type": "session.update", "session": {"sampling_rate": 1}}, "session.sampling_rate", "invalid_value"),
    ({"type": "session.update", "session": {"step": 9}}, "session.step", "invalid_value"),
    ({"type": "session.update", "session": {"step": "NaN"}}, "session.step", "invalid_value"),
    ({"type": "session.update", "session": {"window": 2, "stands_after": 3}}, None, "invalid_value"),
    ({"type": "session.update", "session": {"language": "de"}}, "session.language", "unsupported_language"),
    ({"type": "session.update", "session": {"voice": "x"}}, "session.voice", "unknown_parameter"),
    ({"type": "session.update", "session": {"input_audio_format": "g711"}}, "session.input_audio_format",
     "invalid_value"),
    ({"type": "session.update", "session": 7}, "session", "invalid_value"),
    ({"type": "session.update", "model": "other"}, "model", "model_not_found"),
]


def test_mistakes_are_named_and_the_session_goes_on(server: Running) -> None:
    for begin in range(0, len(MISTAKES), 12):
        with session(server) as live:
            for message, param, code in MISTAKES[begin : begin + 12]:
                if isinstance(message, dict):
                    message = json.dumps({**message, "event_id": "e1"})
                live.send(message)
                error = error_of(got(live))
                assert (error["param"], error["code"]) == (param, code), (message[:80], error)
                assert error["event_id"] == ("e1" if message.startswith('{"') else None)
            say(live)
            assert got(live)["text"] == "w0"


def test_sound_after_the_final_commit_is_refused() -> None:
    engine = SayingEngine(waits=threading.Event())
    with running(engine) as server, session(server) as live:
        say(live)
        commit(live)
        say(live)
        assert error_of(got(live))["code"] == "already_committed"
        engine.waits.set()
        assert rest(live)[0][-1]["text"] == "w0"


# --- ends ------------------------------------------------------------------------------------------------------------


def ended(server: Running, messages: list[dict[str, Any]], code: int, closed: int, why: str) -> None:
    """Told why, what was heard is written down, closed with a code, and the slot is free."""
    errors = [error_of(message) for message in messages if message["type"] == "error"]
    assert errors[-1]["code"] == why
    assert messages[-1]["type"] == "transcription.done"
    assert code == closed
    assert eventually(lambda: server.service._live == 0)


def test_too_many_mistakes_end_it(server: Running) -> None:
    with session(server) as live:
        say(live)
        for _ in range(31):
            live.send("x")
        messages, code = rest(live)
    ended(server, messages, code, 1008, "too_many_mistakes")
    assert messages[-1]["text"] == "w0"


def test_a_binary_message_ends_it(server: Running) -> None:
    with session(server) as live:
        say(live)
        live.send(bytes(3200))
        messages, code = rest(live)
    ended(server, messages, code, 1003, "binary_message")


def test_a_message_over_the_limit_ends_it(server: Running) -> None:
    with session(server) as live:
        live.send("x" * (2**20 + 1))
        assert rest(live) == ([], 1009)
    assert eventually(lambda: server.service._live == 0)


def test_silence_on_the_line_ends_it_and_so_does_a_byte_a_second() -> None:
    with running(SayingEngine(), live_idle_seconds=0.6) as server:
        with session(server) as live:
            ended(server, *rest(live), 1008, "idle")
        with session(server) as live:
            stop = threading.Event()

            def drip() -> None:
                with suppress(ConnectionClosed):
                    while not stop.wait(0.1):
                        say(live, SECOND[:1])

            dripping = threading.Thread(target=drip)
            dripping.start()
            ended(server, *rest(live), 1008, "idle")
            stop.set()
            dripping.join()


def test_no_session_lasts_for_ever() -> None:
    with running(SayingEngine(), live_seconds=0.8) as server, session(server) as live:
        for _ in range(3):
            say(live)
            time.sleep(0.1)
        messages, code = rest(live)
        ended(server, messages, code, 1008, "time_limit")
        assert messages[-1]["text"] == "w0 w1 w2"


def test_a_server_that_stops_lets_the_last_words_be_written() -> None:
    with running(SayingEngine(), graceful_seconds=10.0) as server:
        with session(server) as live:
            say(live)
            assert got(live)["text"] == "w0"
            server.in_loop(server.server.stop)
            messages, code = rest(live)
        ended(server, messages, code, 1012, "stopping")
        assert messages[-1]["text"] == "w0"


def test_a_dropped_connection_frees_its_slot(server: Running, engine: SayingEngine) -> None:
    for _ in range(3):  # more than there may be at once
        with session(server) as live:
            say(live)
            assert got(live)["text"] == "w0"
            live.socket.close()
        assert eventually(lambda: server.service._live == 0)
        assert not engine.sessions[-1].finished  # for nobody


def test_a_bug_ends_it_and_says_nothing_of_our_inside() -> None:
    with running(SayingEngine(error=ZeroDivisionError("secret"))) as server, session(server) as live:
        say(live)
        (message,), code = rest(live)
        assert (error_of(message)["code"], code) == ("internal_error", 1011)
        assert "secret" not in message["error"]["message"]


def test_a_client_that_sends_faster_than_is_computed_waits() -> None:
    """The buffer is bounded: what does not fit stays with the client, and nothing is lost."""
    engine = SayingEngine(waits=threading.Event())
    seconds = 100
    with running(engine) as server, session(server) as live:
        sending = threading.Thread(target=lambda: [say(live) for _ in range(seconds)] and commit(live))
        sending.start()
        time.sleep(1.0)
        engine.waits.set()
        messages, code = rest(live)
        sending.join()
        assert (code, messages[-1]["usage"]["seconds"]) == (1000, float(seconds))
        assert len(messages[-1]["words"]) == seconds
        assert 20 < engine.sessions[0].behind <= 32


# --- who may come in -------------------------------------------------------------------------------------------------


def refused(server: Running, path: str = "/v1/realtime", **options: Any) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as caught, connect(f"ws://127.0.0.1:{server.port}{path}", **options):
        pass
    response = caught.value.response
    return response.status_code, json.loads(response.body)["error"]


def test_as_many_sessions_as_may_be_and_no_more(server: Running) -> None:
    with session(server), session(server):
        status, error = refused(server)
        assert (status, error["code"]) == (429, "too_many_sessions")
    assert eventually(lambda: server.service._live == 0)
    with session(server):
        pass


def test_another_model_is_refused(server: Running) -> None:
    assert refused(server, "/v1/realtime?model=gpt-realtime")[0] == 404
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime?model=tiny") as live:
        assert got(live)["type"] == "session.created"


def test_keys_are_asked_for_as_everywhere() -> None:
    with running(SayingEngine(), keys=[KEY]) as server:
        assert refused(server)[0] == 401
        assert refused(server, additional_headers={"Authorization": "Bearer wrong-wrong-wrong-wrong"})[0] == 401
        with session(server, additional_headers={"Authorization": f"Bearer {KEY}"}):
            pass
        with session(server, subprotocols=["realtime", f"openai-insecure-api-key.{KEY}"]) as live:
            assert live.subprotocol == "realtime"


def test_pages_of_others_are_refused(server: Running) -> None:
    assert refused(server, origin="https://evil.example")[0] == 403


def test_plain_http_is_told(server: Running) -> None:
    response = httpx.get(f"{server.api}/realtime")
    assert response.status_code in (404, 426)
    assert response.json()["error"]["message"]
