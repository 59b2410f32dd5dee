"""What bounds a server: keys, origins, sizes, time, turns; and what a client that leaves sets free."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from running import KEY, Running, ScriptedEngine, input_audio, running, wav

from soundwave.errors import ConfigurationError
from soundwave.serving import server
from soundwave.serving.app import create_app
from soundwave.serving.entrance import guard
from soundwave.serving.entrance.keys import Keys, read_keys
from soundwave.serving.options import ServerOptions

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def ask(running_server: Running, **more: Any) -> httpx.Response:
    return httpx.post(running_server.address + CHAT, json=ASK, timeout=30, **more)


def code(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


# Who may come in


def test_it_is_not_open_to_others_without_keys() -> None:
    with pytest.raises(ConfigurationError, match=r"0\.0\.0\.0.*insecure"):
        create_app(ScriptedEngine(), ServerOptions(host="0.0.0.0"))  # type: ignore[arg-type]
    create_app(ScriptedEngine(), ServerOptions(host="0.0.0.0", insecure=True))  # type: ignore[arg-type]
    create_app(ScriptedEngine(), ServerOptions(host="0.0.0.0"), Keys((KEY,)))  # type: ignore[arg-type]
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        create_app(ScriptedEngine(), ServerOptions(host=host))  # type: ignore[arg-type]


def test_one_of_the_keys_opens_it() -> None:
    with running(ScriptedEngine(), keys=[KEY, KEY + "2"]) as served:
        for key in ("", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer é"):
            answer = ask(served, headers={"Authorization": key.encode()})
            assert (answer.status_code, code(answer)) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for key in (KEY, KEY + "2"):
            assert ask(served, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert httpx.get(served.address + "/health").status_code == 200
        assert httpx.get(served.address + "/ready").status_code == 200
        for path in ("/metrics", "/v1/models", "/openapi.json", "/nowhere"):
            assert httpx.get(served.address + path).status_code == 401


def test_keys_come_from_a_file_and_the_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{KEY}\n")
    monkeypatch.setenv("SOUNDWAVE_API_KEYS", f"{KEY}-2, {KEY}-3")
    keys = read_keys(ServerOptions(host="0.0.0.0", api_keys_file=str(file)))
    assert [keys.client_of(key) for key in (f"{KEY}-2", f"{KEY}-3", KEY, "# ours", "", None)] == [
        "key-1", "key-2", "key-3", None, None, None
    ]
    with pytest.raises(ConfigurationError, match="missing"):
        read_keys(ServerOptions(api_keys_file=str(tmp_path / "missing")))
    with pytest.raises(ConfigurationError, match="API key 1 has 5"):
        Keys(("short",))


def test_web_pages_are_kept_out_unless_they_are_allowed() -> None:
    page, other = "https://example.org", "https://evil.example"
    with running(ScriptedEngine()) as served:
        assert code(ask(served, headers={"Origin": page})) == "origin_not_allowed"
        assert code(ask(served, headers={"Host": "evil.example"})) == "host_not_allowed"
        assert ask(served, headers={"Host": f"localhost:{served.port}"}).status_code == 200
    with running(ScriptedEngine(), allowed_origins=(page,)) as served:
        answer = ask(served, headers={"Origin": page})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page)
        assert "access-control-allow-origin" not in ask(served, headers={"Origin": other}).headers
        assert ask(served, headers={"Origin": other}).status_code == 403


# Sizes


def test_a_body_over_the_limit_is_refused_whether_it_says_its_length_or_not() -> None:
    def pieces() -> Any:
        for _ in range(40):
            yield b" " * 100_000

    with running(ScriptedEngine(), max_upload_mb=1) as served:
        for content in (b" " * 2_000_000, pieces()):
            answer = httpx.post(served.address + CHAT, content=content, headers={"Content-Type": "application/json"})
            assert (answer.status_code, code(answer)) == (413, "body_too_large")
        assert ask(served).status_code == 200


def test_all_bodies_together_are_bounded() -> None:
    body = json.dumps({**ASK, "messages": [{"role": "user", "content": [input_audio(wav(12.0))]}]}).encode()
    assert 400_000 < len(body) < 600_000
    engine = ScriptedEngine(gate=threading.Event())
    with running(engine, max_held_mb=1, max_running=4) as served, ThreadPoolExecutor(4) as threads:
        send = lambda: httpx.post(served.address + CHAT, content=body, timeout=30,  # noqa: E731
                                  headers={"Content-Type": "application/json"})
        held = [threads.submit(send) for _ in range(2)]
        until(lambda: engine.running == 2)
        answer = send()
        assert (answer.status_code, code(answer)) == (429, "busy")
        engine.gate.set()  # type: ignore[union-attr]
        assert [one.result().status_code for one in held] == [200, 200]
        assert send().status_code == 200


def test_a_recording_that_is_too_long_is_stopped_while_it_is_decoded() -> None:
    with running(ScriptedEngine(), max_audio_seconds=2) as served:
        messages = [{"role": "user", "content": [input_audio(wav(2.5))]}]
        answer = httpx.post(served.address + CHAT, json={**ASK, "messages": messages})
        assert (answer.status_code, code(answer)) == (413, "audio_too_long")


# Time


def head(length: int, served: Running) -> bytes:
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def test_a_body_that_comes_too_slowly_is_given_up_and_others_are_served() -> None:
    with running(ScriptedEngine(), upload_seconds=0.5) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as slow:
            slow.sendall(head(1000, served) + b"{")
            assert ask(served).status_code == 200
            slow.settimeout(15)
            answer = b""
            while piece := slow.recv(10_000):
                answer += piece
        assert b" 408 " in answer.splitlines()[0]
        assert b"slow_upload" in answer


def test_a_head_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    with running(ScriptedEngine()) as served:
        for begun in (b"", b"POST /v1/chat", head(5, served)[:-2]):
            with socket.create_connection(("127.0.0.1", served.port)) as slow:
                slow.sendall(begun)
                assert ask(served).status_code == 200
                slow.settimeout(15)
                assert slow.recv(10) == b""


def test_a_request_that_runs_too_long_is_stopped() -> None:
    engine = ScriptedEngine(words=["a"] * 10_000, seconds=0.02)
    with running(engine, request_seconds=0.3) as served:
        answer = ask(served)
        assert (answer.status_code, code(answer)) == (408, "time_limit")
        assert answer.headers["x-should-retry"] == "false"
        until(lambda: engine.closed == 1)
        with httpx.stream("POST", served.address + CHAT, json={**ASK, "stream": True}) as stream:
            events = [line for line in stream.iter_lines() if line]
        assert "time_limit" in events[-2]
        assert events[-1] == "data: [DONE]"
        until(lambda: engine.closed == 2 and served.service.queue.running == 0)


# Turns


def test_a_client_that_leaves_after_the_first_word_frees_its_turn_at_once() -> None:
    engine = ScriptedEngine(words=["word "] * 1000, seconds=0.01)
    with running(engine, max_running=1) as served:
        with httpx.stream("POST", served.address + CHAT, json={**ASK, "stream": True}) as stream:
            next(stream.iter_lines())
        until(lambda: engine.closed == 1)
        assert engine.steps < 100
        until(lambda: served.service.queue.running == 0)
        metrics = httpx.get(served.address + "/metrics").text
        assert "soundwave_answers_running 0.0" in metrics
        assert 'soundwave_requests_cancelled_total{reason="gone"} 1.0' in metrics


def test_a_client_that_leaves_while_it_waits_for_a_whole_answer_frees_its_turn_too() -> None:
    engine = ScriptedEngine(words=["word "] * 1000, seconds=0.01)
    with running(engine, max_running=1) as served:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(served.address + CHAT, json=ASK, timeout=0.3)
        until(lambda: engine.closed == 1 and served.service.queue.running == 0)
        assert engine.steps < 200


def test_a_client_that_leaves_the_queue_takes_no_turn() -> None:
    engine = ScriptedEngine(gate=threading.Event())
    with running(engine, max_running=1) as served, ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, served)
        until(lambda: engine.running == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(served.address + CHAT, json=ASK, timeout=0.3)
        until(lambda: served.service.queue.waiting == 0)
        engine.gate.set()  # type: ignore[union-attr]
        assert first.result().status_code == 200
        assert len(engine.asked) == 1


def test_a_full_queue_says_when_to_come_again() -> None:
    engine = ScriptedEngine(gate=threading.Event())
    with running(engine, max_running=1, max_queue=1) as served, ThreadPoolExecutor(3) as threads:
        held = [threads.submit(ask, served) for _ in range(2)]
        until(lambda: served.service.queue.waiting == 1)
        answer = ask(served)
        assert (answer.status_code, code(answer)) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        engine.gate.set()  # type: ignore[union-attr]
        assert [one.result().status_code for one in held] == [200, 200]


def test_what_is_open_is_bounded_even_where_nothing_is_sent() -> None:
    with running(ScriptedEngine(), max_open=2, upload_seconds=5) as served:
        slow = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(2)]
        for one in slow:
            one.sendall(head(1000, served))
        until(lambda: b"open 2.0" in served.service.metrics.text())
        assert ask(served).status_code == 429
        for one in slow:
            one.close()
        until(lambda: b"open 0.0" in served.service.metrics.text())
        assert ask(served).status_code == 200


def test_one_slow_answer_does_not_hold_others() -> None:
    engine = ScriptedEngine(gate=threading.Event())
    with running(engine, max_running=2) as served, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(ask, served)
        until(lambda: engine.running == 1)
        quick = ScriptedEngine()
        served.service.engine = quick  # type: ignore[assignment]
        for _ in range(5):
            assert ask(served).status_code == 200
        assert not slow.done()
        engine.gate.set()  # type: ignore[union-attr]
        assert slow.result().status_code == 200


def test_connections_are_bounded() -> None:
    with running(ScriptedEngine(), max_open=3) as served:
        many = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(server.CONNECTIONS * 3)]
        with socket.create_connection(("127.0.0.1", served.port)) as late:
            late.settimeout(10)
            assert late.recv(10) == b""
        for one in many:
            one.close()
        until(lambda: not served.server.server_state.connections)
        assert ask(served).status_code == 200


# The end


def test_a_stop_lets_what_runs_end_and_tells_what_waits() -> None:
    engine = ScriptedEngine(gate=threading.Event())
    with running(engine, max_running=1, graceful_seconds=20) as served, ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, served)
        until(lambda: engine.running == 1)
        second = threads.submit(ask, served)
        until(lambda: served.service.queue.waiting == 1)
        served.in_loop(served.server.stop)
        assert (second.result().status_code, code(second.result())) == (503, "stopping")
        late = ask(served)
        assert (late.status_code, code(late)) == (503, "stopping")
        assert httpx.get(served.address + "/ready").status_code == 503
        assert httpx.get(served.address + "/health").status_code == 200
        engine.gate.set()  # type: ignore[union-attr]
        assert first.result().status_code == 200


def test_a_stop_does_not_wait_for_ever() -> None:
    engine = ScriptedEngine(words=["word "] * 10_000, seconds=0.01)
    with running(engine, graceful_seconds=0.3) as served, ThreadPoolExecutor(1) as threads:
        long = threads.submit(ask, served)
        until(lambda: engine.running == 1)
        served.in_loop(served.server.stop)
        assert (long.result().status_code, code(long.result())) == (503, "stopping")
        until(lambda: engine.closed == 1)


# Ours


def test_a_bug_of_ours_is_a_500_without_our_inside_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with running(ScriptedEngine(error=KeyError("secret inside"))) as served:
        answer = ask(served)
    assert (answer.status_code, code(answer)) == (500, "internal_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in str([getattr(one, "facts", {}) for one in caplog.records])
    assert "secret inside" in caplog.text


def test_what_is_said_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger=guard.LOGGER)
    with running(ScriptedEngine()) as served:
        ask(served)
    (line,) = [one.facts for one in caplog.records if one.getMessage() == "request"]  # type: ignore[attr-defined]
    assert line["status"] == 200
    assert line["completion_tokens"] == 4
    assert "blue" not in str(line)
    assert "Hello" not in str(line)
