"""docs/from-whisper.md: our calls run, and theirs where they install; the others compile, and their names exist."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from running import running
from saying import SayingEngine

from soundwave.checkpoints.catalog import resolve_model
from soundwave.errors import CheckpointError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "from-whisper.md"
if not PAGE.is_file():
    pytest.skip("the documents are not part of this copy", allow_module_level=True)
BLOCK = re.compile(r"^<!-- test: (.+?) -->\n```python\n(.*?)^```$", re.M | re.S)
BLOCKS = BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def blocks(mark: str) -> list[str]:
    found = [text for told, text in BLOCKS if told.partition(";")[0].partition(",")[0] == mark]
    assert found, f"no block is marked {mark!r}"
    return found


def test_every_block_says_how_it_is_tested() -> None:
    assert len(BLOCKS) == PAGE.read_text(encoding="utf-8").count("```python")
    for _, text in BLOCKS:
        compile(text, str(PAGE), "exec")


def test_our_calls_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        resolve_model("mini")
    except CheckpointError as problem:
        pytest.skip(f"mini's weights are not here: {problem}")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for text in blocks("run"):
        exec(text, names)
    assert names["result"]["text"] == names["transcript"].text == names["first"].text
    assert names["transcript"].text in capsys.readouterr().out


@pytest.mark.slow  # loads Whisper base, and needs it
def test_the_calls_of_faster_whisper_run(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = pytest.importorskip("faster_whisper")
    folder = os.environ.get("WHISPER", "base")  # a folder that faster-whisper reads, or what it has downloaded
    try:
        model = peer.WhisperModel(folder, device="cpu", compute_type="int8", local_files_only=True)
    except Exception as problem:  # of the hub's client, of several kinds
        pytest.skip(f"Whisper base is not here, and WHISPER names no folder of it: {problem}")
    monkeypatch.setattr(peer, "WhisperModel", lambda name, **options: model)
    monkeypatch.chdir(ROOT)
    for text in blocks("run with faster-whisper"):
        exec(text, {})


def test_the_names_of_qwen2_audio_are_in_transformers() -> None:
    (text,) = blocks("compiled")[1:]
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imports if node.module == "transformers" for alias in node.names]
    assert names == ["AutoProcessor", "Qwen2AudioForConditionalGeneration"]
    assert all(hasattr(transformers, name) for name in names)


def test_the_calls_of_openai_run_against_a_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with running(SayingEngine(name="mini"), served_as=("whisper-1",)) as server:
        for text in blocks("run against a server"):
            exec(text.replace("http://127.0.0.1:8000/v1", server.api), {})
    assert "hello world a second sentence the end" in capsys.readouterr().out
