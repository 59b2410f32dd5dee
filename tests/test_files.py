"""Files are written whole or not at all, under any name that the disk takes; and grow over several runs."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from soundwave import files
from soundwave.errors import ConfigurationError, DataError, WriteError
from soundwave.files import (
    JsonLines,
    atomic_file,
    atomic_folder,
    claim_file,
    hash_file,
    hash_json,
    refuse_existing,
    rows_of,
    write_json,
    write_text,
)

posix = pytest.mark.skipif(os.name == "nt", reason="modes, links and devices as POSIX has them")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_with_its_folder_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "ä.txt"
    write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()
    write_text(path, "new")
    assert (path.read_text(encoding="utf-8"), names(path.parent)) == ("new", ["ä.txt"])


def test_what_fails_midway_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_file(path) as draft:
            draft.write_text("half", encoding="utf-8")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail()
    assert (path.read_text(encoding="utf-8"), names(tmp_path)) == ("old", ["a.txt"])


@pytest.mark.parametrize("name", ["x" * 255, "x" * 250 + ".json", "ä" * 125 + ".txt", "日" * 83])
def test_a_name_as_long_as_the_disk_takes_is_written(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]
    with JsonLines(tmp_path / name[1:]) as lines:
        lines.add({"a": 1})
    assert rows_of(tmp_path / name[1:]) == [{"a": 1}]


def test_a_name_that_is_longer_is_named_with_its_length(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"y{300}\.txt \(304 bytes\)"):
        write_text(tmp_path / ("y" * 300 + ".txt"), "text")
    assert names(tmp_path) == []


def test_a_full_disk_names_the_file_and_leaves_no_draft(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"a\.bin.*No space left.*free some space"), atomic_file(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(WriteError, match=r"a\.bin.*No space left"), atomic_file(tmp_path / "a.bin"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")  # safetensors
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_device_is_written_as_it_is() -> None:
    write_text("/dev/null", "x" * 100_000)
    with pytest.raises(WriteError, match=r"/dev/full"):
        write_text("/dev/full", "x" * 100_000)


def test_a_file_that_is_missing_while_another_is_written_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out" / "a.txt"):
        (tmp_path / "in.txt").read_bytes()


@posix
def test_modes_follow_the_umask_whoever_made_the_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a.safetensors") as draft:
            save_file({"x": torch.zeros(2)}, draft)
        with atomic_folder(tmp_path / "model") as folder:
            save_file({"x": torch.zeros(2)}, folder / "model.safetensors")
            (folder / "model.safetensors").chmod(0o600)
    finally:
        os.umask(before)
    for path in (tmp_path / "a.safetensors", tmp_path / "model" / "model.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    write_text(tmp_path / "real.txt", "old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text(encoding="utf-8") == "new"


def test_a_folder_appears_when_all_in_it_is_written(tmp_path: Path) -> None:
    out = tmp_path / ("m" * 255)
    with atomic_folder(out) as draft:
        write_text(draft / "a.txt", "a")
        assert not out.exists()
    assert (names(out), names(tmp_path)) == (["a.txt"], [out.name])
    with pytest.raises(WriteError, match="is there already"), atomic_folder(out):
        pass
    with pytest.raises(RuntimeError), atomic_folder(out, overwrite=True):
        raise RuntimeError
    assert names(out) == ["a.txt"]
    with atomic_folder(out, overwrite=True) as draft:
        write_text(draft / "b.txt", "b")
    assert (names(out), names(tmp_path)) == (["b.txt"], [out.name])


def test_what_a_killed_run_left_of_a_folder_is_not_mixed_in(tmp_path: Path) -> None:
    left = atomic_folder(tmp_path / "m")
    draft = left.__enter__()  # as if the process ended here
    write_text(draft / "stale.txt", "x")
    with atomic_folder(tmp_path / "m") as again:
        assert (again, names(again)) == (draft, [])


def test_a_hash_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1}) != hash_json({"a": 1, "b": [3]})


def test_lines_of_a_killed_run_are_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with JsonLines(path) as lines:
        lines.add({"n": 1, "text": "a\u2028b\u0085c"})  # these two end a line for some, never here
        assert path.read_bytes().endswith(b"}\n")
    with path.open("ab") as file:
        file.write(b'{"n": 2, "te')
    with JsonLines(path) as lines:
        assert lines.earlier == [{"n": 1, "text": "a\u2028b\u0085c"}]
        lines.add({"n": 3, "text": "\ud800"})
    assert [row["n"] for row in rows_of(path)] == [1, 3]
    with JsonLines(path, keep=lambda row: row["n"] < 3) as lines:
        assert [row["n"] for row in lines.earlier] == [1]
    assert [row["n"] for row in rows_of(path)] == [1]


def test_two_runs_never_add_to_one_file_at_once(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "a.jsonl"), pytest.raises(ConfigurationError, match=r"a\.jsonl"):
        JsonLines(tmp_path / "a.jsonl")
    with JsonLines(tmp_path / "a.jsonl"):
        pass


def test_a_file_of_another_kind_is_not_added_to(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"hello\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: not JSON"):
        JsonLines(tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == b"hello\n"


def test_what_was_made_with_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    claim_file(tmp_path / "a.jsonl", {"seed": 1})
    write_json(tmp_path / "a.jsonl", {})
    claim_file(tmp_path / "a.jsonl", {"seed": 1})
    with pytest.raises(ConfigurationError, match="seed 1, not 2"):
        claim_file(tmp_path / "a.jsonl", {"seed": 2})


def test_a_file_is_replaced_only_where_that_was_asked_for(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "a", False)
    write_text(tmp_path / "a", "x")
    refuse_existing(tmp_path / "a", True)
    with pytest.raises(ConfigurationError, match="--overwrite"):
        refuse_existing(tmp_path / "a", False)


def test_the_draft_is_never_longer_than_its_place_may_be(tmp_path: Path) -> None:
    for name in ("a", "x" * 255, "y" * 240 + "." + "z" * 14):
        draft = files._beside(tmp_path / name, ".unfinished")  # private: the reason why long names can be written
        assert len(os.fsencode(draft.name)) <= 140
