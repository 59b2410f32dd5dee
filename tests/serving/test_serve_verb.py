"""`soundwave serve` as a process: where it listens, what its log says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_runs import run

HERE = Path(__file__).parent
SERVER = """
import pathlib, soundwave
from running import ScriptedEngine
from soundwave.checkpoints import catalog
catalog.download = lambda name, progress=None: pathlib.Path(name)
soundwave.load = lambda *_, **__: ScriptedEngine({engine})
from soundwave.cli.app import main
main()
"""
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


@contextmanager
def served(
    *arguments: str, engine: str = "", before: str = "", **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The verb in a process of its own, after some Python, and its address."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", before + SERVER.format(engine=engine), "serve", "--port", "0", *arguments], text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment}, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        told = json.loads(line) if line.startswith("{") else {}
        assert told.get("event") == "listening", line
        yield process, told["address"]
    finally:
        process.kill()
        process.communicate()


def test_a_signal_lets_the_answer_that_is_under_way_end() -> None:
    with served(engine="words=['word '] * 30, seconds=0.02") as (process, address):
        with httpx.stream("POST", address + "/v1/chat/completions", json=ASK, timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert list(filter(None, lines))[-1] == "data: [DONE]"
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
        log = [json.loads(line) for line in process.stderr]  # type: ignore[union-attr]
    (line,) = [one for one in log if one["event"] == "request"]
    assert line["status"] == 200
    assert line["completion_tokens"] == 30


def test_a_second_signal_ends_it_at_once() -> None:
    with (
        served("--graceful-seconds", "60", engine="words=['word '] * 10_000, seconds=0.05") as (process, address),
        httpx.stream("POST", address + "/v1/chat/completions", json=ASK, timeout=30) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        process.send_signal(signal.SIGINT)
        threading.Event().wait(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_a_killed_server_leaves_nothing_in_the_way_of_the_next_one() -> None:
    with (
        served(engine="words=['word '] * 1000, seconds=0.02") as (process, address),
        httpx.stream("POST", address + "/v1/chat/completions", json=ASK, timeout=30) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        process.kill()
        with pytest.raises(httpx.HTTPError):
            list(lines)
    port = address.rsplit(":", 1)[1]
    with served("--port", port) as (_, again):
        assert again == address
        assert httpx.get(again + "/ready").status_code == 200


def test_it_does_not_listen_for_others_without_keys() -> None:
    result = run("serve", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "0.0.0.0" in result.stderr
    assert "SOUNDWAVE_API_KEYS" in result.stderr


def test_keys_from_the_environment_are_asked_for() -> None:
    with served("--host", "0.0.0.0", SOUNDWAVE_API_KEYS="a-key-that-is-long-enough") as (_, address):
        models = address.replace("0.0.0.0", "127.0.0.1") + "/v1/models"
        assert httpx.get(models).status_code == 401
        headers = {"Authorization": "Bearer a-key-that-is-long-enough"}
        assert httpx.get(models, headers=headers).json()["data"][0]["id"] == "tiny"


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded() -> None:
    with served() as (_, address):
        result = run("serve", "--port", address.rsplit(":", 1)[1])
    assert result.exit_code == 2
    assert "listen" in result.stderr


def test_the_help_names_no_key_and_every_limit() -> None:
    told = run("serve", "--help").stdout
    assert "--api-keys-file" in told
    assert "--api-key " not in told
    for flag in ("--max-upload-mb", "--max-audio-seconds", "--max-running", "--max-queue", "--request-seconds"):
        assert flag in told
