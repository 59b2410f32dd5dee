"""Any text can be printed anywhere, a closed stream is a sentence, and only answers reach standard output."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runs import run, start

from soundwave.cli import streams
from soundwave.errors import SoundwaveError

WORDS = "Größe 大きい 🙂"
NO_UTF8 = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}  # as Python's defaults were, and Windows' are
pytestmark = pytest.mark.usefixtures("recordings")


def output_of(*arguments: str | bytes, code: int = 0, **options: Any) -> tuple[bytes, bytes]:
    with start(*arguments, **options) as process:
        out, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    assert process.returncode == code, err
    return out, err


# --- encodings


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("cp1252", "Größe ??? ?".encode("cp1252")),
        ("cp932", "Gr??e 大きい ?".encode("cp932")),
        ("ascii", b"Gr??e ??? ?"),
        ("utf-8", WORDS.encode()),
    ],
)
def test_what_an_encoding_lacks_is_a_question_mark_and_the_batch_goes_on(encoding: str, shown: bytes) -> None:
    environment = {"PYTHONIOENCODING": encoding}
    out, _ = output_of("transcribe", "a.wav", "b.wav", engine=f"text={WORDS!a}", env=environment)
    assert out.splitlines() == [b"a.wav: " + shown, b"b.wav: " + shown]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_pipe_gets_utf_8_whatever_the_locale_says(flags: list[str]) -> None:
    out, _ = output_of("transcribe", "a.wav", *flags, engine=f"text={WORDS!a}", env=NO_UTF8)
    assert WORDS in out.decode("utf-8")


def test_a_terminal_keeps_its_own_encoding() -> None:
    screen, terminal = pty.openpty()
    with start("transcribe", "a.wav", "-q", engine=f"text={WORDS!a}", env=NO_UTF8, stdout=terminal) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert os.read(screen, 1000).strip() == b"Gr??e ??? ?"
    os.close(terminal)
    os.close(screen)


def test_a_file_in_a_folder_of_transcripts_is_utf_8(tmp_path: Path) -> None:
    output_of("transcribe", "a.wav", "--output-dir", str(tmp_path), engine=f"text={WORDS!a}", env=NO_UTF8)
    assert (tmp_path / "a.txt").read_bytes() == f"{WORDS}\n".encode()


def test_a_table_of_rich_is_no_traceback_either() -> None:
    output_of("doctor", "a-model-that-is-not-there", env=NO_UTF8 | {"PYTHONIOENCODING": "ascii"}, code=1)


def test_a_file_name_that_is_no_text_is_read_and_shown() -> None:
    name = b"caf\xe9.wav"
    Path(os.fsdecode(name)).touch()
    out, _ = output_of("transcribe", name, "a.wav")
    assert out == b"caf?.wav: Words of caf?\na.wav: Words of a\n"


@pytest.mark.parametrize("prompt", [b"Stra\xdfe?", b"\xed\xa0\x80"])
def test_a_prompt_that_is_no_text_is_one_line(prompt: bytes) -> None:
    _, err = output_of("ask", "a.wav", prompt, code=2)
    assert err.count(b"\n") == 1
    assert b"the prompt" in err


def test_a_prompt_in_utf_8_is_understood_in_any_locale() -> None:
    out, _err = output_of("ask", "a.wav", "Wie groß?".encode(), env=NO_UTF8)
    assert out == b"The answer is blue.\n"


def test_a_terminal_is_not_moved_by_what_a_recording_is_called() -> None:
    Path("\x1b[2Ja.wav").touch()
    screen, terminal = pty.openpty()
    with start("transcribe", "\x1b[2Ja.wav", "-q", stdout=terminal) as process:
        process.communicate(timeout=60)
    assert b"\x1b" not in os.read(screen, 1000)
    os.close(terminal)
    os.close(screen)


# --- closed streams


def shell(command: str, code: int) -> tuple[str, str]:
    """What a shell's redirection makes of the command, with no model in it."""
    with start(engine="") as unused:
        unused.kill()
    python, script = unused.args[0], unused.args[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        ["bash", "-c", command.replace("soundwave", '"$0" -c "$1"'), python, script],
        capture_output=True, text=True, timeout=60, env=environment, check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("verb", ["ask", "transcribe"])
def test_a_closed_standard_output_is_told_before_any_work(verb: str) -> None:
    _, err = shell(f"soundwave {verb} a.wav >&-", code=1)
    assert err.count("\n") == 1
    assert "standard output is closed" in err


def test_files_are_written_without_a_standard_output(tmp_path: Path) -> None:
    shell(f"soundwave transcribe a.wav --output-dir {tmp_path} <&- >&-", code=0)
    assert (tmp_path / "a.txt").read_text() == "Words of a\n"


def test_a_closed_standard_input_matters_to_who_reads_it() -> None:
    assert shell("soundwave transcribe a.wav <&-", code=0)[0] == "Words of a\n"
    _, err = shell("soundwave transcribe - <&-", code=1)
    assert err.count("\n") == 1
    assert "closed" in err


def test_errors_of_a_closed_standard_error_are_not_taken_for_answers() -> None:
    assert shell("soundwave transcribe bad.wav 2>&-", code=1) == ("", "")


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_file_that_is_opened_never_becomes_a_standard_stream(closed: str) -> None:
    code = (
        "import sys; from soundwave.cli import streams; streams.prepare(); file = open(sys.executable);"
        "sys.exit(file.fileno() < 3)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, code], env=environment, check=False)
    assert done.returncode == 0


# --- only answers reach standard output


@pytest.mark.parametrize("verb", ["ask", "transcribe"])
def test_what_a_library_prints_is_no_answer(verb: str) -> None:
    answer = {"ask": b"The answer is blue.\n", "transcribe": b"Words of a\n"}[verb]
    out, err = output_of(verb, "a.wav", engine="prints='warned'")
    assert out == answer
    assert err.count(b"warned") == 2  # from Python, and from below it
    assert output_of(verb, "a.wav", "--quiet", engine="prints='warned'") == (answer, b"")


def test_quiet_leaves_errors_to_be_seen() -> None:
    out, err = output_of("transcribe", "bad.wav", "--quiet", engine="prints='warned'", code=1)
    assert (out, err) == (b"", b"error: bad.wav is not a recording: FFmpeg finds no sound in it\n")


def test_streams_are_what_they_were_when_a_verb_has_ended(engine: Any) -> None:
    before = sys.stdout, sys.stderr
    for _ in range(2):
        run("transcribe", "a.wav", "-q")
    assert (sys.stdout, sys.stderr) == before
    assert streams.answers() is sys.stdout


def test_a_closed_output_says_so_to_who_writes() -> None:
    with pytest.raises(SoundwaveError, match="standard output"):
        print("x", file=streams.ClosedOutput())


def test_json_stays_json_with_a_library_that_prints() -> None:
    out, _ = output_of("ask", "a.wav", "--json", engine="prints='warned'")
    assert json.loads(out)["text"] == "The answer is blue."


def test_a_warning_is_one_line_for_each_recording(engine: Any) -> None:
    engine.warns = "a.wav: its channels cancel;\nthe loudest is taken"
    said = "warning: a.wav: its channels cancel; the loudest is taken\n"
    assert run("ask", "a.wav", "--via", "audio").stderr.startswith(said)
    assert run("transcribe", *["a.wav"] * 33).stderr == said * 2  # the engine is called twice
    assert run("transcribe", "a.wav", "-q").stderr == ""
