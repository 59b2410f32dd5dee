"""What a model's folder says beside its weights: configurations, tokenizer, feature extractor. Data, never code.

A folder may be anybody's, so nothing in it is run or asked for, and whatever is wrong with a file becomes one line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError, SoundwaveError
from soundwave.inference_config import read_json


def read_config(folder: Path) -> dict[str, Any]:
    """The values of a folder's config.json.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no config.json, so it holds no model; give a model's folder.")
    return read_json(file)


def model_type(folder: Path) -> str | None:
    """The `model_type` in a folder's config.json: ours and the released format's are whole models, others are parts."""
    kind = read_config(folder).get("model_type") if (folder / "config.json").is_file() else None
    return kind if isinstance(kind, str) else None


def read_soundwave_config(folder: Path) -> SoundwaveConfig:
    """The configuration of a model of our format.

    Raises:
        CheckpointError: a value that is not allowed, or that transformers cannot read.
    """
    values = read_config(folder)
    try:
        return SoundwaveConfig.from_dict(values)
    except Exception as error:  # transformers trips over values of a wrong type in many ways
        raise CheckpointError(f"{folder / 'config.json'} cannot be used: {_line(error)}") from error


def read_pretrained(kind: Any, folder: Path, what: str, **options: Any) -> Any:
    """`kind.from_pretrained(folder)`, for a folder that is here.

    Raises:
        CheckpointError: it cannot be read, or only by running the folder's own code.
    """
    try:
        return kind.from_pretrained(str(folder), trust_remote_code=False, **options)
    except SoundwaveError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except Exception as error:  # transformers trips over broken files in many ways
        raise CheckpointError(
            f"{folder} has no {what} that transformers can read ({_line(error)}); put the model's own files there."
        ) from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, SoundwaveError) else f"{type(error).__name__}: {text[:200]}"
