"""The examples of transcripts and captions run: with curl, Python and JavaScript, against a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running import KEY, Running, running
from saying import SayingEngine

from soundwave.audio import SAMPLE_RATE

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("the examples are not part of this copy", allow_module_level=True)
COMMANDS = {"sh": ["sh"], "py": [sys.executable], "mjs": ["node"]}
OLDER_NODE = ["node", "--experimental-websocket"]  # 20 has WebSocket behind this flag, 22 without
SHOWN = {
    "transcribe.sh": "00:00:10,000 --> 00:00:11,400\na second sentence", "transcribe.py": "  10.00   10.40  a\n",
    "transcribe.mjs": "  10.00   11.40  a second sentence", "realtime.py": "w0", "realtime.mjs": "w0 w1\n",
}
WITHOUT_WEBSOCKET = "typeof WebSocket === 'undefined' && process.exit(1)"


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(SayingEngine(name="mini"), keys=[KEY]) as server:
        yield server


def outcome(name: str, address: str, key: str) -> subprocess.CompletedProcess[str]:
    command = COMMANDS[name.rpartition(".")[2]]
    if shutil.which(command[0]) is None or (command == ["sh"] and shutil.which("curl") is None):
        pytest.skip(f"{command[0]} is not installed")
    if name == "realtime.mjs" and subprocess.run([*command, "-e", WITHOUT_WEBSOCKET], check=False).returncode:
        command = OLDER_NODE
    raw = name == "realtime.mjs"
    arguments = [address] if raw else [str(EXAMPLES / "question.wav"), address]
    ran = subprocess.run(
        [*command, str(EXAMPLES / "serving" / name), *arguments], capture_output=True, timeout=60, check=False,
        env={**os.environ, "SOUNDWAVE_API_KEY": key, "SPEED": "20"},
        input=np.zeros(2 * SAMPLE_RATE, "<i2").tobytes() if raw else None,
    )
    return subprocess.CompletedProcess(ran.args, ran.returncode, ran.stdout.decode(), ran.stderr.decode())


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_shows_the_words(name: str, served: Running) -> None:
    ran = outcome(name, served.api, KEY)
    assert ran.returncode == 0, ran.stderr
    assert SHOWN[name] in ran.stdout


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_shows_that_it_was_refused(name: str, served: Running) -> None:
    ran = outcome(name, served.api, "a-wrong-key-that-is-long")
    assert ran.returncode != 0
    told = "refuses" if name == "realtime.mjs" else "401" if name == "realtime.py" else "API key is missing or wrong"
    assert told in ran.stdout + ran.stderr
