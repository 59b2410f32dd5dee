"""What a score depends on: the weights, the code, the libraries and the machine, by name and hash.

Nothing here names a folder of somebody's disk: results are published.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from soundwave.checkpoints.catalog import check_folder, models_cache
from soundwave.checkpoints.native import resolve_part
from soundwave.checkpoints.parts import PARTS
from soundwave.files import hash_file
from soundwave.inference.engine import Engine
from soundwave.inference_config import FILE_NAME

PACKAGE = Path(__file__).resolve().parents[1]
# What cannot change a reply: the layers beside and above the engine.
NOT_IN_A_REPLY = {"training", "evaluation", "serving", "export", "datatools", "cli", "doctor.py"}
FOLDERS = ("SPEECH", "TEXTS", "WORK", "DATA", "RUNS")  # the variables by which recipes name folders of data and runs
LIBRARIES = ("soundwave-llm", "torch", "transformers", "tokenizers", "peft", "jiwer", "whisper-normalizer", "sacrebleu")


def settings_of(engine: Engine) -> dict[str, Any]:
    """All about a loaded model that decides its replies."""
    about = engine.describe()
    return {
        "weights": weights_of(engine), "dtype": about["dtype"], "device": torch.device(about["device"]).type,
        "code_sha256": code_hash(),
    }


def weights_of(engine: Engine) -> dict[str, str]:
    """sha256 of every file that decides replies, by its path inside the model's folder or a part's name.

    The files of a part that the catalog made are not read again: its record of them is checked and taken.
    """
    if engine.folder is None:
        return {}
    transcribe = engine.inference.transcribe
    own = {FILE_NAME, transcribe.ngram, transcribe.words}
    hashes = {
        path.relative_to(engine.folder).as_posix(): hash_file(path)
        for path in sorted(engine.folder.rglob("*"))
        if path.suffix == ".safetensors" or path.name in own
    }
    for source in (engine.encoder.config.audio_tower_source, engine.encoder.config.language_model_source):
        if source is None:
            continue
        if Path(source).is_dir() or source not in PARTS:  # a folder, or a model of the hub
            found = {path.name: hash_file(path) for path in sorted(resolve_part(source).glob("*.safetensors"))}
        else:
            files = check_folder(models_cache() / source)["files"]
            found = {name: files[name]["sha256"] for name in sorted(files) if name.endswith(".safetensors")}
        hashes |= {f"{Path(source).name}/{name}": value for name, value in found.items()}
    return hashes


def code_hash() -> str:
    """One hash over the source of every layer that has a part in a reply."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in NOT_IN_A_REPLY:
            digest.update(place.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def commit() -> str | None:
    """The commit of the source tree, with `+changes` where files differ from it; None outside of a checkout."""
    tracked = _git("ls-files", "--error-unmatch", str(PACKAGE / "__init__.py"))
    head = _git("rev-parse", "HEAD")
    if not tracked or not head:
        return None
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no", "--", str(PACKAGE)) else "")


def versions() -> dict[str, str]:
    """Python's and the libraries', those that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """What the model ran on: the GPU's name, or the processor's and how many threads it may use."""
    if torch.device(device).type == "cuda":
        return {"device": device, "name": torch.cuda.get_device_name(device)}
    return {"device": device, "name": _processor(), "threads": torch.get_num_threads()}


def command_line(arguments: Sequence[str]) -> str:
    """The command as it was given; of the folders of one machine no name stays (`shown_path`)."""
    shown = [shown_path(argument) for argument in arguments]
    return " ".join(["soundwave", *(json.dumps(one, ensure_ascii=False) if " " in one else one for one in shown)])


def shown_path(path: str) -> str:
    """An absolute path by the variable that names its folder, such as $SPEECH, or else its last two parts."""
    place = Path(path)
    if not place.is_absolute():
        return path
    for name in FOLDERS:
        folder = Path(os.environ.get(name, ""))
        if folder.is_absolute() and place != folder and place.is_relative_to(folder):
            return f"${name}/{place.relative_to(folder).as_posix()}"
    return Path(*place.parts[-2:]).as_posix() if len(place.parts) > 2 else path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
