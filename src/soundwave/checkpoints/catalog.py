"""Names to folders: what `mini`, a path or a hub id stands for, and the cache of the parts that mini is built on.

Knows nothing about what is inside a model. Quick to import: transformers is imported only when a part has to be made
(`conversion.py`), the hub client only when the hub is asked.

A part is made once: fetched, checked, converted in a temporary folder beside its place, and renamed into it when whole.
So a folder in the cache is complete or absent, whatever interrupts us. A lock keeps two processes from making the same
part twice.
"""

import contextlib
import difflib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soundwave.checkpoints.parts import PARTS, Fetched, Part, Progress, fetch
from soundwave.errors import CheckpointError
from soundwave.files import hash_file, sync

MINI = "mini"
SHIPPED = {MINI: "soundwave-mini", "soundwave-mini": "soundwave-mini"}
"""Names of the models whose weights come with this package, and the name of their folder."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "ngram.*", "words.*"]  # never pickles
SECOND_COPIES = ["original/*", "*fp32*"]
RECORD = "parts.json"
RECORD_FORMAT = 1  # of the record and of what conversion writes: raise it to have old folders refused


def models_cache() -> Path:
    """The folder of converted parts: $SOUNDWAVE_CACHE, else $XDG_CACHE_HOME/soundwave, else ~/.cache/soundwave."""
    if own := os.environ.get("SOUNDWAVE_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "soundwave"


def resolve_model(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a model: `"mini"`, a folder, or a hub id such as `"org/name"`, downloaded if need be.

    HF_HOME and HF_HUB_OFFLINE are obeyed. A folder of that name goes before a hub id.

    Raises:
        CheckpointError: There is no such model, the folder holds no model, or the hub cannot be reached.
    """
    given = os.fspath(name_or_path)
    path = Path(given).expanduser()
    if given in SHIPPED and not (path / "config.json").is_file():
        return _shipped_folder(SHIPPED[given])
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(f"The folder {given!r} holds no model: it has no config.json. Give a model's folder.")
        return path
    if path.exists():
        raise CheckpointError(f"{given!r} is a file. Give the folder that holds the model's config.json and weights.")
    if isinstance(name_or_path, str) and HUB_ID.fullmatch(given):
        return _hub_folder(given)
    raise CheckpointError(_unknown(given, list(SHIPPED)))


def part_folder(part: str, *, progress: Progress | None = None, download: bool = True) -> Path:
    """The ready folder of a part, made on first use.

    Args:
        part: `"whisper-base"`, the encoder only: `config.json`, `model.safetensors` in float16 with the names of
            transformers' `WhisperEncoder`, `preprocessor_config.json`; or `"smollm2-135m-instruct"`, a
            `LlamaForCausalLM` in float32 with its tokenizer, chat template and generation settings.
        progress: Called as `progress(description, done, total)`.
        download: Whether a part that is not there may be fetched and converted.

    Raises:
        CheckpointError: No such part, no source for it, no room, or the folder in the cache was changed.
    """
    if part not in PARTS:
        raise CheckpointError(_unknown(part, list(PARTS), kind="part"))
    folder = models_cache() / part
    if not folder.exists():
        if not download:
            raise CheckpointError(f"{part} is not in {folder.parent} yet. Run `soundwave download mini` once.")
        _make(PARTS[part], folder, progress or _silent)
    check_folder(folder)
    return folder


def download(name: str, progress: Progress | None = None) -> Path:
    """Make a model ready for use without network: all of mini's parts, one part, or a model of the hub.

    Args:
        name: `"mini"`, the name of a part, a hub id, or a folder (there is nothing to do then).
        progress: Called as `progress(description, done, total)`.

    Returns:
        The model's (or part's) folder.

    Raises:
        CheckpointError: As `resolve_model` and `part_folder`.
    """
    if name in PARTS:
        return part_folder(name, progress=progress)
    if name in SHIPPED:
        for part in PARTS:
            part_folder(part, progress=progress)
    elif not HUB_ID.fullmatch(name) and not Path(name).expanduser().is_dir():
        raise CheckpointError(_unknown(name, [*SHIPPED, *PARTS]))
    return resolve_model(name)


def check_folder(folder: Path, *, thorough: bool = False) -> dict[str, Any]:
    """Compare a part's folder with the record made of it.

    A file whose size and time of change are the recorded ones is taken as unchanged, which costs no reading.

    Args:
        folder: A folder that `part_folder` made.
        thorough: Hash every file all the same.

    Returns:
        The record: part, licence, origin, files.

    Raises:
        CheckpointError: A file is missing or was changed, or the folder was not made by this version of Soundwave.
    """
    again = f"Delete {folder} and run `soundwave download mini`."
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        files, made_as = record["files"].items(), record["format"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder} has no readable {RECORD}, so it was not made whole here. {again}") from error
    if made_as != RECORD_FORMAT:
        raise CheckpointError(f"{folder} is of format {made_as}, and this version reads {RECORD_FORMAT}. {again}")
    for name, known in files:
        try:
            whole = _is_unchanged(folder / name, known, thorough)
        except OSError as error:
            raise CheckpointError(f"{folder} is not whole: {name}: {error.strerror}. {again}") from error
        if not whole:
            raise CheckpointError(f"{folder} was changed: {name} is not what was converted. {again}")
    return record


def _is_unchanged(path: Path, known: dict[str, Any], thorough: bool) -> bool:
    status = path.stat()
    if status.st_size != known["size"]:
        return False
    if status.st_mtime_ns == known["modified_ns"] and not thorough:
        return True
    return hash_file(path) == known["sha256"]


def _shipped_folder(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    in_wheel, in_source_tree = package / "weights" / name, package.parents[1] / "models" / name
    for folder in (in_wheel, in_source_tree):
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointError(
        f"The weights of {name} are neither in {in_wheel} nor in {in_source_tree}. Install the soundwave-llm wheel, or "
        "use a whole checkout of the source tree."
    )


def hub_part_folder(hub_id: str) -> Path:
    """The folder of a public encoder or language model on the hub, downloaded if need be.

    Second copies of the weights are left out: Whisper large-v3 has one in float32, Llama one in Meta's own format.

    Raises:
        CheckpointError: there is no such model, or the hub cannot be reached.
    """
    return _hub_folder(hub_id, ignore_patterns=SECOND_COPIES)


def _hub_folder(hub_id: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download  # half a second to import

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=MODEL_FILES, **options))
    except Exception as error:  # the hub client raises whatever its HTTP library does, and that has changed before
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(
            f"There is no folder {hub_id!r}, and the hub could not give a model of that name ({reason}). Check the "
            "name and the network, or give 'mini' or a folder."
        ) from error
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"The hub's {hub_id!r} holds no model: it has no config.json. Give another name.")
    return folder


def _unknown(given: str, known: list[str], kind: str = "model") -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    also = ", the path of a folder, or a hub id such as 'org/name'" if kind == "model" else ""
    names = ", ".join(map(repr, known))
    return f"There is no {kind} {given!r}, and no folder of that name.{hint} Give {names}{also}."


def _silent(description: str, done: int, total: int | None) -> None:
    """The progress of a caller who did not ask for any."""


def _make(part: Part, folder: Path, progress: Progress) -> None:
    cache = folder.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / f".{part.name}.lock", part, progress):
            if folder.exists():  # another process made it while we waited
                return
            for leftover in cache.glob(f".{part.name}-*"):  # of a process that was killed: we hold the lock
                shutil.rmtree(leftover, ignore_errors=True)
            _check_room(part, cache)
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{part.name}-") as staging:
                _make_in(Path(staging), part, folder, progress)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CheckpointError(_no_room(part, cache)) from error
        raise CheckpointError(
            f"Cannot write {part.name} into the cache {cache}: {error.strerror or error}. Set SOUNDWAVE_CACHE to "
            "a folder you may write to."
        ) from error


def _make_in(staging: Path, part: Part, folder: Path, progress: Progress) -> None:
    fetched = fetch(part, staging, progress)
    made = staging / part.name
    made.mkdir()
    progress(f"converting {part.name}", 0, 1)
    _convert(part, fetched, made)
    _write_record(part, fetched, made)
    for path in [*made.iterdir(), made]:
        sync(path)
    os.replace(made, folder)
    sync(folder.parent)
    progress(f"converting {part.name}", 1, 1)


def _convert(part: Part, fetched: Fetched, made: Path) -> None:
    from soundwave.checkpoints import conversion  # torch and transformers: seconds to import

    if part.name == "whisper-base":
        if fetched.from_hub:
            conversion.convert_whisper_from_hub(fetched.folder, made)
        else:
            conversion.convert_whisper(fetched.folder / "model.bin", made)
    elif fetched.from_hub:
        conversion.convert_smollm2_from_hub(fetched.folder, made)
    else:
        conversion.convert_smollm2(fetched.folder / "model.gguf", made)


def _write_record(part: Part, fetched: Fetched, made: Path) -> None:
    files = {}
    for path in sorted(made.iterdir()):
        path.chmod(0o644)  # safetensors writes 0600: other users of a shared cache could not read it
        status = path.stat()
        files[path.name] = {"size": status.st_size, "modified_ns": status.st_mtime_ns, "sha256": hash_file(path)}
    record = {
        "format": RECORD_FORMAT,
        "part": part.name,
        "licence": part.licence,
        "origin": fetched.origin,
        "files": files,
    }
    (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")


@contextlib.contextmanager
def _lock(path: Path, part: Part, progress: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout  # a tenth of a second to import

    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another process to make {part.name}", 0, None)
        held = lock.acquire()
    with held:
        yield


def _check_room(part: Part, cache: Path) -> None:
    if shutil.disk_usage(cache).free < part.room:
        raise CheckpointError(_no_room(part, cache))


def _no_room(part: Part, cache: Path) -> str:
    free = shutil.disk_usage(cache).free
    return (
        f"The disk of {cache} has {free / 1e6:,.0f} MB free, and making {part.name} takes {part.room / 1e6:,.0f} MB. "
        "Free some space, or set SOUNDWAVE_CACHE to a folder on another disk."
    )
