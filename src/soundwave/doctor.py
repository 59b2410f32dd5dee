"""Looks at a machine and says whether Soundwave will run on it, and what to do where it will not.

Knows nothing about how findings are shown. Unlike other modules it imports the heavy libraries inside its functions:
a library that is missing or broken is a finding here, not a failure.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from soundwave.checkpoints.catalog import HUB_ID, models_cache, part_folder, resolve_model
from soundwave.checkpoints.parts import PARTS
from soundwave.errors import SoundwaveError
from soundwave.inference.processes import is_busy, running_neighbours, usable_cores

if TYPE_CHECKING:
    from soundwave.configuration import SoundwaveConfig

OLDEST_PYTHON = (3, 10)
GIGABYTE = 1e9
BYTES_PER_PARAMETER = {"float32": 4, "bfloat16": 2}
LONGEST_CLIP_SECONDS = 30.0
LONGEST_ANSWER_TOKENS = 512
PROMPT_TOKENS = 64  # of a short request in its chat format
TRAINING_PACKAGES = ("tensorboard", "matplotlib", "yaml", "jiwer")
SHARE_OF_MEMORY = 0.9  # what a model may take of the machine's memory before its swapping is to be feared


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        mark: `ok`; `warn`, it runs but not as well as it could, or needs something first; `fail`, it does not run.
        value: What was found, for people.
        advice: What to do about it; empty where nothing need be done.
        details: The same in numbers, for programs: bytes, counts.
    """

    name: str
    mark: Literal["ok", "warn", "fail"]
    value: str
    advice: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def examine(models: list[str]) -> list[Finding]:
    """All findings about this machine and the given models; downloads nothing.

    Args:
        models: Names as `soundwave.load` takes them.
    """
    libraries = _libraries()
    all_work = all(finding.mark == "ok" for finding in libraries)
    findings = [_python(), _system(), *libraries]
    if all_work:
        findings += [*_devices(), _threads()]
    findings += [_training(), _cache()]
    for model in models:
        findings += _model(model, all_work)
    return findings


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        return Finding("python", "fail", found, f"install Python {needed} or newer")
    return Finding("python", "ok", f"{found} ({sys.executable})")


def _system() -> Finding:
    memory = memory_of_machine()
    size = "unknown memory" if memory is None else f"{memory / GIGABYTE:.1f} GB memory"
    return Finding("system", "ok", f"{platform.platform()}, {size}", details={"memory_bytes": memory})


def _libraries() -> list[Finding]:
    findings = [_library(name, name) for name in ("torch", "transformers", "av", "peft", "safetensors")]
    if findings[2].mark == "ok":
        import av

        versions = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
        value = f"{getattr(av, 'ffmpeg_version_info', 'built in')} (libavcodec {versions.get('libavcodec', 'unknown')})"
        findings.append(Finding("FFmpeg", "ok", value, details=versions))
    return findings


def _library(distribution: str, module: str) -> Finding:
    try:
        import_module(module)
        return Finding(distribution, "ok", version(distribution))
    except PackageNotFoundError:
        return Finding(distribution, "ok", "unknown version")
    except Exception as problem:  # a broken binary raises anything: ImportError, OSError, RuntimeError, ...
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        return Finding(distribution, "fail", reason, f"reinstall it: pip install --force-reinstall {distribution}")


def _devices() -> list[Finding]:
    import torch

    findings = [Finding("device cpu", "ok", f"{os.cpu_count()} cores; float32, bfloat16")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        dtypes = "float32, float16" + (", bfloat16" if torch.cuda.is_bf16_supported() else "")
        value = f"{properties.name}, {properties.total_memory / GIGABYTE:.1f} GB; {dtypes}"
        details = {"memory_bytes": properties.total_memory}
        findings.append(Finding(f"device cuda:{index}", "ok", value, details=details))
    if torch.backends.mps.is_available():
        findings.append(Finding("device mps", "ok", "Apple GPU; float32, float16, bfloat16"))
    if len(findings) == 1 and shutil.which("nvidia-smi"):
        advice = "install the CUDA build of torch: see the selector on PyTorch's page Get Started"
        findings.append(Finding("device cuda", "warn", "an NVIDIA driver is here, but torch cannot use it", advice))
    return findings


def _threads() -> Finding:
    import torch

    used, usable, neighbours = torch.get_num_threads(), usable_cores(), running_neighbours()
    details = {"used": used, "usable": usable, "running_neighbours": neighbours}
    value = f"{used} on {usable} usable cores"
    if is_busy():  # more threads would only wait for each other
        return Finding("threads", "ok", f"{value}; busy: {neighbours} other threads compute now", details=details)
    if used == 1 and usable > 1:
        advice = "unset OMP_NUM_THREADS, or set it to the number of physical cores"
        return Finding("threads", "warn", f"1 of {usable} cores is used", advice, details)
    return Finding("threads", "ok", value, details=details)


def _training() -> Finding:
    missing = [name for name in TRAINING_PACKAGES if not _is_importable(name)]
    if missing:
        advice = "only to train: pip install 'soundwave-llm[train]'"
        return Finding("training extra", "ok", f"not installed ({', '.join(missing)})", advice)
    return Finding("training extra", "ok", "installed")


def _is_importable(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _cache() -> Finding:
    folder = models_cache()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        return Finding("cache", "fail", f"{folder} cannot be written", "set SOUNDWAVE_CACHE to a folder of yours")
    free = shutil.disk_usage(existing).free
    details = {"folder": str(folder), "free_bytes": free, "used_bytes": size_of(folder)}
    return Finding("cache", "ok", f"{folder}, {free / GIGABYTE:.1f} GB free", details=details)


def _model(model: str, libraries_work: bool) -> list[Finding]:
    """Whether a model's files are here, and what it will need."""
    try:
        folder = _folder_without_network(model)
    except SoundwaveError as problem:
        return [Finding(f"weights {model}", "fail", "not found", str(problem))]
    if folder is None:
        return [Finding(f"weights {model}", "warn", "not downloaded yet", f"run: soundwave download {model}")]
    size = size_of(folder)
    value = f"{size / 1e6:.1f} MB in {folder}"
    findings = [Finding(f"weights {model}", "ok", value, details={"bytes": size, "folder": str(folder)})]
    if not libraries_work:
        return findings
    try:
        config, parts, merged = _shape_of(folder)
    except (SoundwaveError, OSError, ValueError, KeyError) as problem:
        reason = str(problem).splitlines()[0]
        return [*findings, Finding(f"config {model}", "fail", reason, "download the model again")]
    for source in (config.audio_tower_source, config.language_model_source):
        if source is not None and not Path(source).is_dir():
            findings.append(_part(source))
    return [*findings, _length(model, config), _memory(model, config, parts, merged)]


def _folder_without_network(model: str) -> Path | None:
    """A model's folder; None for a model of the hub that is not in the hub's cache."""
    if not HUB_ID.fullmatch(model) or Path(model).is_dir():
        return resolve_model(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _shape_of(folder: Path) -> tuple[SoundwaveConfig, dict[str, int], int]:
    """A model's configuration, its number of parameters per part, and of those that a merged LoRA takes beside them."""
    from transformers import WhisperConfig

    from soundwave.checkpoints.folder import read_config, read_soundwave_config
    from soundwave.checkpoints.released import is_released, released_config
    from soundwave.checkpoints.weights import read_shapes, weight_files

    values = read_config(folder)
    if is_released(values):  # it does not say how large its encoder is, so its weights are counted as they lie there
        return released_config(values, WhisperConfig()), {"all": numbers_in(weight_files(folder))}, 0
    config = read_soundwave_config(folder)
    parts = parameters_per_part(config)
    lora = folder / "lora"
    if not lora.is_dir():
        return config, parts, 0
    files = weight_files(lora)
    return config, {**parts, "lora": numbers_in(files)}, merged_numbers(read_shapes(files))


def merged_numbers(shapes: dict[str, tuple[int, ...]]) -> int:
    """How many numbers the matrices hold that a LoRA changes: a twin of each is kept for spoken turns.

    Example:
        >>> merged_numbers({"q.lora_A.weight": (4, 16), "q.lora_B.weight": (32, 4)})
        512
    """
    wide = {name: shape[-1] for name, shape in shapes.items() if ".lora_A." in name}
    return sum(columns * shapes[name.replace(".lora_A.", ".lora_B.")][0] for name, columns in wide.items())


def _part(part: str) -> Finding:
    if part not in PARTS and HUB_ID.fullmatch(part):
        folder = _folder_without_network(part)
        if folder is None:
            return Finding(f"weights {part}", "warn", "not downloaded yet", "it is when the model is first loaded")
        size = size_of(folder)
        return Finding(f"weights {part}", "ok", f"{size / 1e6:.1f} MB in {folder}", details={"bytes": size})
    try:
        folder = part_folder(part, download=False)
    except SoundwaveError as problem:
        return Finding(f"weights {part}", "warn", "not ready", str(problem))
    size = size_of(folder)
    details = {"bytes": size, "folder": str(folder)}
    return Finding(f"weights {part}", "ok", f"{size / 1e6:.1f} MB in {folder}", details=details)


def _length(model: str, config: SoundwaveConfig) -> Finding:
    """How long a recording may be."""
    context = getattr(config.text_config, "max_position_embeddings", None)
    if context is None:
        return Finding(f"audio {model}", "ok", "transcribe and ask: any length")
    seconds = longest_asked(config, context)
    value = (
        f"transcribe: any length; ask --via audio: {seconds / 60:.1f} min at least, with {LONGEST_ANSWER_TOKENS} "
        f"tokens of answer in {context} positions; ask --via transcript: any length, in parts where it must be"
    )
    return Finding(f"audio {model}", "ok", value, details={"context_length": context, "ask_seconds": seconds})


def longest_asked(config: SoundwaveConfig, context: int) -> float:
    """Seconds of speech that surely fit into an LLM's context beside a short prompt and the longest answer.

    As for memory, no frame is dropped; speech that shrinks leaves room for several times as much.
    """
    return max(0.0, context - LONGEST_ANSWER_TOKENS - PROMPT_TOKENS) * config.seconds_per_frame


def _memory(model: str, config: SoundwaveConfig, parts: dict[str, int], merged: int) -> Finding:
    needs = {dtype: expected_memory(config, sum(parts.values()) + merged, dtype) for dtype in BYTES_PER_PARAMETER}
    details: dict[str, Any] = {"parameters": parts, "expected_bytes": needs}
    value = f"{sum(parts.values()) / 1e6:,.1f}M parameters: " + ", ".join(
        f"{need / GIGABYTE:.2f} GB in {dtype}" for dtype, need in needs.items()
    )
    there = memory_of_machine()
    if there is None or needs["float32"] < SHARE_OF_MEMORY * there:
        return Finding(f"memory {model}", "ok", value, details=details)
    if needs["bfloat16"] < SHARE_OF_MEMORY * there:
        return Finding(f"memory {model}", "warn", value, "on the CPU use --dtype bfloat16", details)
    advice = f"this machine has {there / GIGABYTE:.1f} GB; use a device with enough memory, or a smaller model"
    return Finding(f"memory {model}", "warn", value, advice, details)


def parameters_per_part(config: SoundwaveConfig) -> dict[str, int]:
    """Count a model's parameters without allocating them; tied weights count once.

    Returns:
        Part (`audio_tower`, `alignment`, `shrinking`, `language_model`) to number of parameters.
    """
    from soundwave.checkpoints.weights import empty_model

    model = empty_model(config)
    model.language_model.tie_weights()
    return {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()}


def numbers_in(files: list[Path]) -> int:
    """How many numbers safetensors files hold, by their headers."""
    from safetensors import safe_open

    count = 0
    for file in files:
        with safe_open(file, "pt") as tensors:
            names = tensors.keys()
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    return count


def expected_memory(config: SoundwaveConfig, parameters: int, dtype: str) -> int:
    """Bytes that asking about the longest clip takes: weights, the LLM's cache, and the libraries as loaded now.

    Args:
        config: The model's configuration.
        parameters: How many weights it has.
        dtype: A key of `BYTES_PER_PARAMETER`.
    """
    text = config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    keys_and_values_of_a_token = 2 * text.num_hidden_layers * heads * width
    # No frame is dropped in the worst case: shrinking can only make this smaller.
    tokens = LONGEST_CLIP_SECONDS / config.seconds_per_frame + LONGEST_ANSWER_TOKENS
    weights_and_cache = (parameters + keys_and_values_of_a_token * tokens) * BYTES_PER_PARAMETER[dtype]
    return int(weights_and_cache + memory_of_this_process())


def memory_of_machine() -> int | None:
    """Bytes of main memory, or of the container's share of it; None where the system does not say."""
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    container = Path("/sys/fs/cgroup/memory.max")
    if container.is_file() and (text := container.read_text(encoding="utf-8").strip()).isdigit():
        limits.append(int(text))
    return min(limits, default=None)


def memory_of_this_process() -> int:
    """Peak bytes of this process so far: Python and the libraries it has imported. 0 where the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; 0 for one that does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
