"""The README tells the truth: its commands and its Python run, its tests' command is CI's, its files exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from soundwave.checkpoints.catalog import resolve_model
from soundwave.errors import CheckpointError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"(?:^<!-- test: (?P<mark>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
NOT_OURS_TO_COPY = shutil.ignore_patterns(".git", ".venv", "venv", "runs", "cache", "data", "__pycache__", ".*_cache")

# What a block's mark says about running it.
MAIN_JOB = "set-up and main job"  # installing is CI's; what comes after is run with what is installed
TESTS = "set-up and tests"  # running it here would run this test again; CI runs it
NEEDS_MINI = "needs mini"


@dataclass(frozen=True)
class Block:
    mark: str | None
    language: str
    text: str


BLOCKS = [Block(match["mark"], match["language"], match["text"]) for match in BLOCK.finditer(README)]


def block_marked(mark: str) -> Block:
    (block,) = [block for block in BLOCKS if block.mark == mark]
    return block


def need_mini() -> None:
    try:
        resolve_model("mini")
    except CheckpointError as problem:
        pytest.skip(f"mini's weights are not in this tree: {problem}")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, so that what the README's commands write does not land in it."""
    folder = tmp_path_factory.mktemp("readme") / "soundwave"
    shutil.copytree(ROOT, folder, ignore=NOT_OURS_TO_COPY)
    return folder


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def test_two_commands_do_all_the_set_up() -> None:
    for mark in (MAIN_JOB, TESTS):
        block = block_marked(mark)
        assert block.language == "bash"
        assert len(block.text.splitlines()) == 1
        assert block.text.startswith("python3 -m venv .venv && .venv/bin/pip install -q -e ")


def test_the_command_for_the_tests_is_the_one_that_ci_runs() -> None:
    printed = subprocess.run([ROOT / ".ci" / "run", "--print"], capture_output=True, text=True, check=True).stdout
    assert printed == block_marked(TESTS).text


def test_the_main_job_runs(checkout: Path) -> None:
    need_mini()
    job = block_marked(MAIN_JOB).text.strip().split(" && ")[-1]
    assert job.startswith(".venv/bin/soundwave ask ")
    answer = run_in(checkout, "bash", "-c", job.removeprefix(".venv/bin/")).stdout
    assert answer.strip()


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"])
def test_its_python_runs_and_is_short(block: Block, checkout: Path) -> None:
    assert len(block.text.splitlines()) <= 6
    if block.mark == NEEDS_MINI:
        need_mini()
    assert len(run_in(checkout, sys.executable, "-c", block.text).stdout.strip().splitlines()) >= 2


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "bash" and block.mark not in (MAIN_JOB, TESTS)]
)
def test_its_commands_run(block: Block, checkout: Path) -> None:
    if block.mark == NEEDS_MINI:
        need_mini()
    run_in(checkout, "bash", "-euo", "pipefail", "-c", block.text)


def test_every_path_in_the_tree_exists() -> None:
    (tree,) = [block.text for block in BLOCKS if block.language == "text"]
    parent = Path()
    for line in tree.splitlines():
        entry = line.split()[0]
        if line.startswith(" "):
            assert (ROOT / parent / entry).exists(), f"{parent / entry} is in the README's tree only"
        else:
            parent = Path(entry)
            assert (ROOT / parent).exists(), f"{parent} is in the README's tree only"


def test_every_module_of_the_package_is_in_the_tree() -> None:
    (tree,) = [block.text for block in BLOCKS if block.language == "text"]
    package = ROOT / "src" / "soundwave"
    pieces = {path.name for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    shown = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    assert pieces - {"__init__.py", "__main__.py"} - shown == set()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/recipes.md"])
def test_its_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
