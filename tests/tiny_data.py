"""Manifests, recordings and a tokenizer for the tests of the data tools: small, made in code, and without torch."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from typer.testing import CliRunner

from soundwave.cli.app import app
from soundwave.datatools.spelling import Spelling, load_spelling

RATE = 16_000
MERGES = ["t h", "th e", "Ġ the", "a t", "c at", "Ġ cat"]


def run(*arguments: object) -> Any:
    """`soundwave data …`, with its output and exit code."""
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def manifest(folder: Path, *rows: Any, name: str = "m.jsonl") -> Path:
    """A manifest of these rows; a text is written as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def clip(path: Path, seconds: float = 1.0, level: float = 0.3, pitch: float = 220.0, rate: int = RATE) -> str:
    """A tone in a file; gives the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, (level * np.sin(2 * np.pi * pitch * time)).astype(np.float32), rate)
    return path.name


def tokenizer_folder(folder: Path, **config: Any) -> Path:
    """A language model's folder, as far as spelling needs it: single bytes, and merges for " the" and " cat"."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
    tokenizer = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [tuple(m.split(" ")) for m in MERGES]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return folder


def spelling(folder: Path, **config: Any) -> Spelling:
    return load_spelling(str(tokenizer_folder(folder / "llm", **config)))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, as long as it is needed."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
