"""The benchmark of many clients, at a tiny size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from running import ScriptedEngine, running, wav

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import serving_load  # noqa: E402


def test_it_counts_what_many_clients_get(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(wav(0.5, seed=i))
    lines = [json.dumps({"audio": f"{i}.wav"}) for i in range(3)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    kept = tmp_path / "load.json"
    with running(ScriptedEngine(name="mini"), max_running=2) as server:
        serving_load.main([
            str(tmp_path / "manifest.jsonl"), "--address", server.address, "--clients", "4", "--minutes", "0.03",
            "--alone-minutes", "0.01", "--every", "1", "--json", str(kept),
        ])  # fmt: skip
    told = json.loads(kept.read_text(encoding="utf-8"))
    many = told["many"]
    assert many["5xx"] == 0
    assert many["requests"] == sum(many["statuses"].values()) > 8
    assert many["statuses"]["200"] > many["statuses"].get("400", 0)
    assert 0.5 * many["statuses"]["200"] <= many["audio_seconds"] <= 1.5 * many["statuses"]["200"]
    assert many["latency"]["short"]["p95"] >= many["latency"]["short"]["p50"] > 0
    assert "times the loop's" in capsys.readouterr().out


def test_memory_that_grows_after_warming_up_is_told() -> None:
    flat = serving_load.Told(wall=100, memory=[(0, 100), (10, 400), (30, 500), (50, 500), (70, 505), (90, 500)])
    grows = serving_load.Told(wall=100, memory=[(second, 500 + second) for second in range(100)])
    assert flat.grown() == 0
    assert grows.grown() == pytest.approx(0.115, abs=0.02)
