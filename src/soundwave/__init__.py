"""Soundwave: one speech front end turns audio into language-model embeddings; any decoder continues from them.

    import soundwave

    engine = soundwave.load("mini")
    print(engine.ask("question.wav", "What does the person say?").text)

Importing this package does no work: every name below is looked up in its own module when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soundwave.audio import iter_audio, load_audio
    from soundwave.configuration import SoundwaveConfig
    from soundwave.errors import (
        AudioError,
        AudioTooLongError,
        CheckpointError,
        ConfigurationError,
        DataError,
        SoundwaveError,
        SoundwaveWarning,
        TrainingError,
    )
    from soundwave.inference.engine import Engine
    from soundwave.model.soundwave import SoundwaveForConditionalGeneration
    from soundwave.processing import SoundwaveProcessor

__version__ = "0.1.0"

_HOME_OF = {
    "AudioError": "soundwave.errors",
    "AudioTooLongError": "soundwave.errors",
    "CheckpointError": "soundwave.errors",
    "ConfigurationError": "soundwave.errors",
    "DataError": "soundwave.errors",
    "SoundwaveError": "soundwave.errors",
    "SoundwaveWarning": "soundwave.errors",
    "TrainingError": "soundwave.errors",
    "SoundwaveConfig": "soundwave.configuration",
    "SoundwaveProcessor": "soundwave.processing",
    "SoundwaveForConditionalGeneration": "soundwave.model.soundwave",
    "Engine": "soundwave.inference.engine",
    "iter_audio": "soundwave.audio",
    "load_audio": "soundwave.audio",
}

_KNOWN_TO_TRANSFORMERS = ("soundwave.model.soundwave", "soundwave.processing")

__all__ = [
    "AudioError",
    "AudioTooLongError",
    "CheckpointError",
    "ConfigurationError",
    "DataError",
    "Engine",
    "SoundwaveConfig",
    "SoundwaveError",
    "SoundwaveForConditionalGeneration",
    "SoundwaveProcessor",
    "SoundwaveWarning",
    "TrainingError",
    "iter_audio",
    "load",
    "load_audio",
    "register",
]


def load(
    model: str | os.PathLike[str] = "mini", *, device: str = "auto", dtype: str = "auto", backend: str = "torch"
) -> Engine:
    """Load a model, ready to be asked.

    Args:
        model: `"mini"`, a folder, or the id of a model on a Hugging Face hub.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` or `"mps"`.
        dtype: `"auto"`, `"float32"`, `"bfloat16"` or `"float16"`.
        backend: what runs the language model; `"torch"`.

    Returns:
        The engine: `ask`, `stream`, `ask_batch`, `encode` and `transcribe`.

    Raises:
        CheckpointError: The model cannot be found, downloaded, verified or read.
        ConfigurationError: A device, dtype or backend that does not exist here.
    """
    from soundwave.inference.processes import compute_after_fork, wait_as_fits

    wait_as_fits()
    compute_after_fork()
    from soundwave.inference.loading import load as load_engine

    return load_engine(model, device=device, dtype=dtype, backend=backend)


def register() -> None:
    """Let transformers' Auto classes read the folders of `soundwave export`: model, processor and configuration.

    Without it `AutoModel` and `AutoProcessor` do not know them, since `import soundwave` loads no transformers. Whoever
    uses `SoundwaveForConditionalGeneration` or `SoundwaveProcessor` of this package has called it.

    Example:
        >>> soundwave.register()
        >>> model = AutoModel.from_pretrained("my-model")
    """
    for module in _KNOWN_TO_TRANSFORMERS:
        import_module(module)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME_OF[name] in _KNOWN_TO_TRANSFORMERS:
        register()  # all or none: where it does not know our processor, AutoProcessor gives a bare tokenizer
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
