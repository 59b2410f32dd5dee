"""What docs/security.md promises, as far as the source itself can show it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULES = sorted((Path(__file__).parents[1] / "src" / "soundwave").rglob("*.py"))
LOADERS = {"from_pretrained", "from_config"}
# Classes whose `from_pretrained` is ours, or reads JSON into a fixed class: they cannot run what a folder brings.
FIXED = {"SoundwaveConfig", "SoundwaveProcessor", "SoundwaveForConditionalGeneration", "WhisperConfig", "super()"}
RUNS_CODE = {"eval", "exec", "input", "os.system", "yaml.load", "yaml.unsafe_load"}
RUN_CODE = {"pickle", "marshal", "shelve"}  # modules, whatever is called of them


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_call_lets_a_checkpoint_run_its_own_code(path: Path) -> None:
    for call in calls(path):
        if isinstance(call.func, ast.Attribute) and call.func.attr in LOADERS:
            owner = ast.unparse(call.func.value)
            given = {word.arg: word.value for word in call.keywords}
            if owner not in FIXED:
                assert "trust_remote_code" in given, f"{path.name}:{call.lineno} {ast.unparse(call)}"
            if "trust_remote_code" in given:
                assert ast.unparse(given["trust_remote_code"]) == "False"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_is_unpickled_evaluated_or_asked_on_standard_input(path: Path) -> None:
    for call in calls(path):
        name = ast.unparse(call.func)
        assert name not in RUNS_CODE, f"{path.name}:{call.lineno}"
        assert name.split(".")[0] not in RUN_CODE, f"{path.name}:{call.lineno}"
        if name == "torch.load":
            assert "weights_only=True" in ast.unparse(call), f"{path.name}:{call.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_shell_is_started_nowhere(path: Path) -> None:
    shells = [call.lineno for call in calls(path) if "shell=True" in ast.unparse(call)]
    assert shells == [], path.name
