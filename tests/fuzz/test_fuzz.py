"""Whatever is fed in, it is used, or refused in one line: no traceback, no hang, no runaway memory.

A few hundred cases run with the other tests, always the same. All of them, anew each time:

    SOUNDWAVE_FUZZ=1000 pytest tests/fuzz     # cases of each of the five kinds; listed in docs/security.md
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")
import cases
import tiny
import torch
import yaml
from cli_runs import run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from soundwave.audio import load_audio
from soundwave.checkpoints.loading import load_checkpoint
from soundwave.data.manifests import read_manifest
from soundwave.errors import SoundwaveError
from soundwave.inference.options import AskOptions

WANTED = int(os.environ.get("SOUNDWAVE_FUZZ", "0"))
MOST_SECONDS = 10.0
MOST_GROWTH = 2**30  # bytes
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*/*.yaml"))


def fuzzed(few: int) -> Callable[[Any], Any]:
    """How many cases a test has: a few, the same each time, or as many as were asked for."""
    return settings(
        max_examples=WANTED or few, derandomize=not WANTED, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # shrinking a case of seconds takes minutes
    )


def memory() -> int:
    """The most bytes of memory that this process has taken."""
    resource = pytest.importorskip("resource")  # Windows has none
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.fixture(autouse=True)
def _no_runaway() -> Iterator[None]:
    """No test of this file takes a gigabyte more than the process had; where the system can, more is not even given."""
    import resource

    before, limits = memory(), resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")
    if pages.exists():
        now = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 3 * MOST_GROWTH, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert memory() - before < MOST_GROWTH


def survives(call: Callable[[], Any]) -> Any:
    """The result of a call, or None where it was refused as it should be; anything else fails the test."""
    began = time.perf_counter()
    result, told = None, "it was used"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call()
        except SoundwaveError as problem:
            told = str(problem)
    assert "\n" not in told
    assert 10 < len(told) <= 1000
    assert time.perf_counter() - began < MOST_SECONDS
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


SOUNDS = cases.sounds()


@fuzzed(80)
@given(cases.headers(SOUNDS))
def test_headers(data: bytes) -> None:
    samples = survives(lambda: load_audio(data))
    assert samples is None or (samples.ndim == 1 and bool(torch.from_numpy(samples.copy()).isfinite().all()))


@fuzzed(80)
@given(content=cases.rows(), packed=st.booleans())
def test_manifests(place: Path, content: bytes, packed: bool) -> None:
    path = place / ("m.jsonl.gz" if packed else "m.jsonl")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    survives(lambda: list(read_manifest(path)))


@fuzzed(60)
@given(data=st.data())
def test_configs(place: Path, model: Path, data: st.DataObject) -> None:
    files = cases.files_of(model)
    folder = place / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    name = data.draw(st.sampled_from(sorted(files)))
    if data.draw(st.integers(0, 3)):
        changed = data.draw(cases.changed(json.loads(files[name])))
        (folder / name).write_bytes(cases.as_bytes(changed))
    else:
        (folder / name).write_bytes(data.draw(cases.damaged([files[name]], head=10**6)))
    survives(lambda: load_checkpoint(folder, "cpu", torch.float32))


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    """The folder of a whole tiny model."""
    target = place / "model"
    made, processor = tiny.model(), tiny.processor()
    made.save_pretrained(target)
    processor.save_pretrained(target)
    assert load_checkpoint(target, "cpu", torch.float32)
    return target


@fuzzed(60)
@given(data=st.data())
def test_recipes(place: Path, data: st.DataObject) -> None:
    base = data.draw(st.sampled_from(RECIPES)).read_bytes()
    path = place / "recipe.yaml"
    if data.draw(st.integers(0, 3)):
        changed = yaml.safe_dump(data.draw(cases.changed(yaml.safe_load(base))))
        path.write_text(changed, encoding="utf-8", errors="replace")
    else:
        path.write_bytes(data.draw(cases.damaged([base], head=10**6)))
    began = time.perf_counter()
    told = run("train", str(path), "--estimate")
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exc_info
    assert told.exit_code in (0, 1, 2)
    assert told.exit_code == 0 or told.stderr.startswith("error: ")
    assert time.perf_counter() - began < MOST_SECONDS


PROCESSOR = tiny.processor()
CONTROL = set(PROCESSOR.tokenizer.all_special_ids)


@fuzzed(80)
@given(st.lists(cases.ODD_TEXTS, min_size=1, max_size=4).map("".join))
def test_prompts(prompt: str) -> None:
    def tokenize(text: str) -> Any:
        return PROCESSOR.tokenize([{"role": "user", "content": text}])

    tokens = survives(lambda: tokenize(prompt))
    if tokens is not None:
        control = [token for token in tokens.ids if token in CONTROL]
        assert control == [token for token in tokenize("x").ids if token in CONTROL]  # the template's own, and no more


@fuzzed(40)
@given(cases.VALUES)
def test_conversations(content: Any) -> None:
    survives(lambda: PROCESSOR.tokenize(content))
    survives(lambda: PROCESSOR.tokenize([content]))
    survives(lambda: PROCESSOR.tokenize([{"role": "user", "content": content}]))


@fuzzed(40)
@given(st.dictionaries(st.sampled_from(["temperature", "top_p", "max_new_tokens", "seed", "via"]), cases.VALUES))
def test_options(values: dict[str, Any]) -> None:
    survives(lambda: AskOptions(**values))
