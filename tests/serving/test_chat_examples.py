"""The examples of conversations run: with curl, Python and JavaScript, against a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import KEY, Running, ScriptedEngine, running

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("the examples are not part of this copy", allow_module_level=True)
COMMANDS = {"chat.sh": ["sh"], "chat.py": [sys.executable], "chat.mjs": ["node"]}


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(ScriptedEngine(name="mini"), keys=[KEY]) as server:
        yield server


def outcome(name: str, address: str, key: str) -> subprocess.CompletedProcess[str]:
    command = COMMANDS[name]
    if shutil.which(command[0]) is None or (name == "chat.sh" and shutil.which("curl") is None):
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(
        [*command, EXAMPLES / "serving" / name, EXAMPLES / "question.wav", address], capture_output=True, text=True,
        env={**os.environ, "SOUNDWAVE_API_KEY": key}, timeout=60, check=False,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_shows_the_answer(name: str, served: Running) -> None:
    ran = outcome(name, served.api, KEY)
    assert ran.returncode == 0, ran.stderr
    assert "The answer is blue." in ran.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_shows_what_is_wrong(name: str, served: Running) -> None:
    ran = outcome(name, served.api, "a-wrong-key")
    assert ran.returncode != 0
    assert "API key is missing or wrong" in ran.stdout + ran.stderr
