"""`soundwave eval --out`: a result is gone on with, and another one is not replaced unless that is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from soundwave.cli.evaluation import _earlier_result, _is_same  # private: the verb itself needs a whole evaluation
from soundwave.errors import ConfigurationError

NOW: dict[str, Any] = {"settings": "abc", "limit": None}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True), ({"settings": "xyz"}, False), ({"limit": 5}, False), ({"manifests": [{"sha256": "3"}]}, False),
        ({"manifests": 7}, False),
    ],
)
def test_the_same_evaluation_has_the_same_settings_and_data(change: dict[str, Any], same: bool) -> None:
    earlier = {**NOW, "manifests": [{"sha256": "2"}, {"sha256": "1"}], "score": 0.1, **change}
    assert _is_same(earlier, NOW, ["1", "2"]) is same


@pytest.mark.parametrize("content", ["notes of mine\n", "[1]", "\ufeff", "[" * 100_000])
def test_what_is_no_result_is_not_replaced(content: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="--overwrite"):
        _earlier_result(out, overwrite=False)
    assert _earlier_result(out, overwrite=True) is None


def test_a_result_is_read_and_a_new_place_is_free(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert _earlier_result(out, overwrite=False) is None
    out.write_text(json.dumps(NOW), encoding="utf-8")
    assert _earlier_result(out, overwrite=False) == NOW
