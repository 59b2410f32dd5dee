"""The command line over the fake engine: in this process, or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from typer.testing import CliRunner

import soundwave
from soundwave.checkpoints import catalog
from soundwave.cli.app import app

HERE = Path(__file__).parent
AS_A_PROCESS = """
import sys, pathlib
import soundwave
from fake_engine import FakeEngine
from soundwave.checkpoints import catalog
catalog.download = lambda name, progress=None: pathlib.Path(name)
soundwave.load = lambda *_, **__: FakeEngine({arguments})
from soundwave.cli.app import main
main()
"""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The fake, in the place of every model; what it was loaded with is in `loaded`."""
    fake: Any = FakeEngine()
    fake.loaded = []

    def load(model: str, **options: Any) -> FakeEngine:
        fake.loaded.append((model, options))
        return fake

    monkeypatch.setattr(soundwave, "load", load)
    monkeypatch.setattr(catalog, "download", lambda name, progress=None: Path(name))
    return fake


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with files that the fake engine takes for recordings."""
    folder = tmp_path / "recordings"
    for name in ("a.wav", "b.wav", "c.wav", "bad.wav", "b.flac", "x/a.wav", "y/a.mp3", "y/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: str, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def start(
    *arguments: str | bytes, engine: str = "", env: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """The command as a process of its own, with a fake engine made with the arguments `engine`."""
    code = AS_A_PROCESS.format(arguments=engine)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), **(env or {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, preexec_fn=_heeds_ctrl_c, **streams
    )


def _heeds_ctrl_c() -> None:
    """As a shell starts a command in the foreground; what runs in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
