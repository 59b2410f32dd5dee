"""Clients and machines that behave badly: a clear outcome each, and the service goes on."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from running import Running, ScriptedEngine, running, wav
from test_serve_verb import served

from soundwave.serving.routes import streams

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
BOUNDARY = "a-boundary"


def answers(server: Running) -> bool:
    return httpx.post(server.address + CHAT, json=ASK, timeout=30).status_code == 200


def form(*parts: tuple[str, bytes], end: bool = True) -> bytes:
    """A form's body; without its end it is broken off."""
    made = b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n'.encode() + data + b"\r\n"
        for head, data in parts
    )
    return made + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


FILE = 'name="file"; filename="a.wav"'
FORMS = {
    "broken off": form(('name="model"', b"tiny"), (FILE, wav()), end=False)[:-300],
    "no end": form(('name="model"', b"tiny"), (FILE, wav()), end=False),
    "no file": form(('name="model"', b"tiny")),
    "a text for a file": form(('name="model"', b"tiny"), ('name="file"', b"a.wav")),
    "an empty file": form(('name="model"', b"tiny"), (FILE, b"")),
    "no names": form(("", b"tiny")),
    "two files": form(('name="model"', b"tiny"), (FILE, wav()), (FILE, wav())),
    "two models": form(('name="model"', b"tiny"), ('name="model"', b"other"), (FILE, wav())),
    "another boundary": form(('name="model"', b"tiny"), (FILE, wav())).replace(b"a-boundary", b"b-boundary"),
    "a thousand fields": form(*[(f'name="f{i}"', b"1") for i in range(1100)]),
    "a field of 2 MB": form(('name="model"', b"x" * 2_000_000)),
    "nothing": b"",
    "zeros": b"\0" * 1000,
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with running(ScriptedEngine()) as server:
        yield server


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_is_none_is_refused(name: str, shared: Running) -> None:
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = httpx.post(shared.address + "/v1/audio/transcriptions", content=FORMS[name], headers=kind)
    if name != "two files":  # the last one counts
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.json()["error"]["message"]
    assert answers(shared)


def test_a_client_that_hangs_up_in_the_middle_of_a_body_leaves_nothing() -> None:
    with running(ScriptedEngine()) as server:
        for sent in (b"", b"{", json.dumps(ASK).encode()[:-1]):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(
                    f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    f"Content-Length: 1000\r\n\r\n".encode() + sent
                )
        end = time.monotonic() + 10
        while b"open 0.0" not in server.service.metrics.text() and time.monotonic() < end:
            time.sleep(0.01)
        assert b"open 0.0" in server.service.metrics.text()
        assert b'status="5' not in server.service.metrics.text()
        assert answers(server)


@pytest.mark.parametrize(
    "sent",
    [b"\0\0\0\0", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", b"A" * 100_000,
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
     b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"],
    ids=lambda sent: ascii(sent[:20]),
)  # fmt: skip
def test_bytes_that_are_no_http_are_answered_by_a_400_in_the_usual_shape(sent: bytes, shared: Running) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as client:
        client.settimeout(15)
        client.sendall(sent)
        answer = b""
        while piece := client.recv(10_000):
            answer += piece
    assert b" 400 " in answer.splitlines()[0]
    assert b'"error"' in answer
    assert answers(shared)


def test_an_upload_that_the_disk_has_no_room_for_is_a_503() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
    with served(before=limit) as (_, address):
        big = httpx.post(
            address + "/v1/audio/transcriptions", data={"model": "tiny"}, files={"file": ("a.wav", wav(60.0))}
        )
        assert (big.status_code, big.json()["error"]["code"]) == (503, "disk_full"), big.text
        assert httpx.post(address + CHAT, json=ASK).status_code == 200


def test_many_slow_heads_and_bodies_hold_nobody_up() -> None:
    with running(ScriptedEngine(), upload_seconds=5) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        for i, client in enumerate(slow):
            client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n".encode())
            if i % 2:
                client.sendall(b"\r\n{")
        assert all(answers(server) for _ in range(5))  # each within 30 s, on however busy a machine
        for client in slow:
            client.close()


def test_a_reader_that_stops_reading_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "READER_SECONDS", 0.3)
    engine = ScriptedEngine(words=["word " * 20_000] * 1000)
    with running(engine) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            body = json.dumps({**ASK, "stream": True}).encode()
            client.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode() + body
            )
            end = time.monotonic() + 20
            while not engine.closed and time.monotonic() < end:
                time.sleep(0.02)
        closed = engine.closed  # the engine itself would be shown with all its words
        assert closed == 1
        assert httpx.get(server.address + "/ready").status_code == 200


@pytest.mark.slow  # bodies of 30 MB
def test_a_million_messages_are_refused_and_hold_nobody_up_for_long() -> None:
    body = json.dumps({**ASK, "messages": [{"role": "user", "content": ""}] * 1_000_000}).encode()
    with running(ScriptedEngine(), max_upload_mb=64) as server:
        longest = 0.0
        done = threading.Event()

        def watch() -> None:
            nonlocal longest
            while not done.is_set():
                began = time.perf_counter()
                assert answers(server)
                longest = max(longest, time.perf_counter() - began)

        watching = threading.Thread(target=watch)
        watching.start()
        answer = httpx.post(
            server.address + CHAT, content=body, headers={"Content-Type": "application/json"}, timeout=60
        )
        done.set()
        watching.join()
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
        assert longest < 10
