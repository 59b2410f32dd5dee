"""Figures told to Weights & Biases, and a model pushed to a hub: both against stand-ins, without a network."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub.constants
import pytest
import tiny_runs

from soundwave.errors import ConfigurationError, TrainingError
from soundwave.training import hub
from soundwave.training.loop import train
from soundwave.training.recipe import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny_runs.recipe(tmp_path, max_steps=2)


# Weights & Biases


class FakeRun:
    def __init__(self, **options: Any):
        self.options, self.id, self.told, self.finished = options, options["id"] or "run-1", [], False

    def log(self, figures: dict[str, float], step: int) -> None:
        self.told.append((step, figures))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """The runs that a stand-in for the library was asked for."""
    begun: list[FakeRun] = []
    wandb: Any = ModuleType("wandb")

    def init(**options: Any) -> FakeRun:
        begun.append(FakeRun(**options))
        return begun[-1]

    wandb.init = init
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return begun


def test_figures_are_told_and_a_run_that_goes_on_has_the_same_page(
    recipe: Recipe, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    told = dataclasses.replace(recipe, report_to=["wandb"], evaluation=recipe.train)
    train(told)
    train(dataclasses.replace(told, max_steps=3))
    first, second = runs
    assert first.options["project"] == "soundwave"
    assert first.options["name"] == "run"
    assert first.options["config"]["max_steps"] == 2
    assert [run.options["id"] for run in runs] == [None, "run-1"]
    assert second.options["resume"] == "allow"
    assert first.finished
    assert [step for step, figures in first.told if "loss" in figures] == [1, 2]
    assert [step for step, figures in first.told if "eval/data_loss" in figures] == [2]
    assert [step for step, figures in second.told if "loss" in figures] == [3]
    assert not (Path(recipe.output_dir) / "tensorboard").exists()


@pytest.mark.parametrize("where", ["init", "log"])
def test_a_service_that_fails_does_not_end_the_run(
    recipe: Recipe, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(*((sys.modules["wandb"], "init") if where == "init" else (FakeRun, "log")), fail)
    train(dataclasses.replace(recipe, report_to=["tensorboard", "wandb"]))
    assert capsys.readouterr().err.count("cannot be told the figures (no network)") == 1
    assert [row["step"] for row in tiny_runs.losses(recipe.output_dir)] == [1, 2]


def test_the_library_is_imported_only_when_asked_for_and_missed_before_the_first_step(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    with pytest.raises(ConfigurationError, match=r"report_to names wandb.*pip install wandb"):
        train(dataclasses.replace(recipe, report_to=["wandb"]))
    assert not Path(recipe.output_dir).exists()
    train(dataclasses.replace(recipe, report_to=[]))


# The hub


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What a stand-in for the hub was sent: how a repository was made, and its files by name."""
    kept: dict[str, Any] = {"files": {}}

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            answer: dict[str, Any] = {}
            if self.path == "/api/repos/create":
                kept["made"], kept["token"] = json.loads(body), self.headers["Authorization"]
                answer = {"url": f"{address}/you/tuned"}
            elif self.path.endswith("/preupload/main"):
                files = json.loads(body)["files"]
                answer = {"files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
                ]}
            elif self.path.endswith("/commit/main"):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        kept["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                answer = {"commitUrl": f"{address}/you/tuned/commit/1", "commitOid": "1"}
            told = json.dumps(answer).encode()
            self.send_response(403 if kept.get("closed") else 200)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield kept
    server.shutdown()


@pytest.fixture
def pushed(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe that pushes, over tiny parts that pass for public ones."""
    monkeypatch.setattr(hub, "local_parts", lambda config: [])
    return dataclasses.replace(recipe, push_to_hub=True, hub_model_id="you/tuned")


def test_a_finished_model_is_uploaded_to_a_private_repository(
    pushed: Recipe, repository: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    final = train(pushed)
    assert repository["token"] == "Bearer hf_test"
    assert (repository["made"]["name"], repository["made"]["organization"]) == ("tuned", "you")
    assert repository["made"].get("private") is True or repository["made"].get("visibility") == "private"
    assert repository["files"] == {file.name: file.read_bytes() for file in final.iterdir() if file.is_file()}
    assert "pushed to http" in capsys.readouterr().err


def test_a_hub_that_refuses_is_told_before_the_first_step(pushed: Recipe, repository: dict[str, Any]) -> None:
    repository["closed"] = True
    with pytest.raises(ConfigurationError, match=r"hub_model_id=you/tuned cannot be made .*HF_TOKEN.*push_to_hub"):
        train(pushed)
    assert not (Path(pushed.output_dir) / "metrics.jsonl").exists()


def test_an_upload_that_fails_leaves_the_model_and_is_made_up_for(
    pushed: Recipe, repository: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(hub.HfApi, "upload_folder", fail)
        with pytest.raises(TrainingError, match=r"final could not be uploaded to you/tuned \(no network\)"):
            train(pushed)
    assert set(repository["files"]) == set()
    final = train(pushed)
    assert "config.json" in repository["files"]
    assert final.is_dir()


def test_a_model_on_parts_that_nobody_else_has_is_not_pushed(recipe: Recipe, repository: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"stands on .*tiny-(whisper|llm).*soundwave export"):
        train(dataclasses.replace(recipe, push_to_hub=True, hub_model_id="you/tuned"))
    assert "made" not in repository
    with pytest.raises(ConfigurationError, match="push_to_hub is True, and needs hub_model_id"):
        train(dataclasses.replace(recipe, push_to_hub=True))
