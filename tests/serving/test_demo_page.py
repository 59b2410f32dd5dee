"""The demo page in a real Chromium: what a visitor does, sees and hears, on a desktop and on a phone.

SOUNDWAVE_SCREENSHOTS names a folder in which its pictures are kept; docs/images has those of the release.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from demo_visits import (
    CHROMIUM,
    DESKTOP,
    PHONE,
    Visitor,
    chromium,
    files_in,
    free_port,
    needs_chromium,
    visitor,
    write_wave,
)

import soundwave
from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.checkpoints.catalog import resolve_model
from soundwave.errors import CheckpointError
from soundwave.serving.demo.options import DemoOptions

pytest.importorskip("gradio")
pytestmark = needs_chromium

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def mini() -> soundwave.Engine:
    try:
        resolve_model("mini")
    except CheckpointError as problem:
        pytest.skip(f"mini's weights are not in this tree: {problem}")
    return soundwave.load("mini", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(mini: soundwave.Engine, served_folder: Path) -> Iterator[str]:
    from soundwave.serving.demo import launching

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(served_folder))
        with launching.served(mini, DemoOptions(port=free_port())) as where:
            yield where
    assert files_in(served_folder) == [], "what visitors gave is deleted with the page"


@pytest.fixture(scope="module")
def strict_address() -> Iterator[str]:
    """Of a page that takes recordings of 2 seconds and files of a megabyte."""
    from soundwave.serving.demo import launching

    with launching.served(tiny.engine(), DemoOptions(port=free_port(), max_seconds=2, max_megabytes=1)) as where:
        yield where


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Any, address: str) -> Iterator[Any]:
    with chromium(playwright) as started:
        yield started


def test_an_uploaded_recording_is_written_down_played_and_asked_about(browser: Any, address: str) -> None:
    with visitor(browser, address) as one:
        one.upload(EXAMPLES / "question.wav")
        assert " ".join(one.words()).lower() == "how many days are there in a week"

        one.page.locator("#sw-transcript .sw-word").nth(2).click()  # playing, or its end if playing was faster
        one.page.wait_for_function("document.querySelector('#sw-transcript audio').currentTime > 0.2")
        one.page.wait_for_selector("#sw-transcript .sw-now")
        one.page.get_by_label("Show how sure each word is").check()
        assert one.page.locator(".sw-percent").first.inner_text().endswith("%")

        one.button("Answer what is said").click()
        one.wait_for("#sw-said", "Answered in")
        assert "7" in one.page.inner_text("#sw-chat") or "seven" in one.page.inner_text("#sw-chat").lower()

        one.page.get_by_label("Your question").fill("Name one of them.")
        one.page.keyboard.press("Enter")
        one.page.wait_for_function("document.querySelector('#sw-question textarea, #sw-question input').value === ''")
        one.page.wait_for_function("document.querySelectorAll('#sw-chat [data-testid=bot]').length === 2")
        one.wait_for("#sw-said", "Answered in")
        assert "Name one of them." in one.page.inner_text("#sw-chat")


def test_a_transcript_is_downloaded_as_subtitles_and_as_json(browser: Any, address: str) -> None:
    with visitor(browser, address) as one:
        one.button("A request").click()
        words = " ".join(one.words())
        with one.page.expect_download() as subtitles:
            one.page.get_by_label("Download SRT subtitles").click()
        with one.page.expect_download() as words_and_times:
            one.page.get_by_label("Download JSON with word times").click()
        assert subtitles.value.suggested_filename == "flite.srt"
        assert words in Path(subtitles.value.path()).read_text(encoding="utf-8")
        assert json.loads(Path(words_and_times.value.path()).read_text(encoding="utf-8"))["text"] == words


def test_what_the_microphone_hears_is_captioned_and_then_written_down(
    playwright: Any, address: str, tmp_path: Path
) -> None:
    said, quiet = load_audio(EXAMPLES / "question.wav"), np.zeros(SAMPLE_RATE, np.float32)
    heard = write_wave(tmp_path / "heard.wav", np.concatenate([quiet, said, quiet, said, quiet, quiet]))
    with (
        chromium(playwright, f"--use-file-for-fake-audio-capture={heard}%noloop") as talking,
        visitor(talking, address) as one,
    ):
        one.button("Record").click()
        one.page.wait_for_selector(".sw-lines p")  # an utterance is over while recording goes on
        assert "days" in one.page.inner_text(".sw-lines")
        one.page.locator(".sw-record").click()
        assert "days" in one.words()
        assert "Your recording" in one.page.inner_text("#sw-transcript")
        assert one.page.locator(".sw-record").inner_text().strip() == "Record"


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("notes.txt.wav", b"to do: buy milk " * 40, "notes.txt.wav is not audio"),
        ("empty.wav", b"", "empty"),
        ("cut off.wav", b"RIFF", "cut off.wav begins like wav but"),
    ],
    ids=["no audio", "empty", "cut off"],
)
def test_a_wrong_file_is_refused_in_a_sentence(browser: Any, address: str, name: str, data: bytes, told: str) -> None:
    with visitor(browser, address) as one:
        one.upload(name, "audio/wav", data)
        alert = one.page.get_by_role("alert").first
        alert.wait_for()
        assert told in alert.inner_text()
        assert "Traceback" not in one.page.content()


def test_a_recording_that_is_too_long_or_too_large_is_refused(
    browser: Any, strict_address: str, tmp_path: Path
) -> None:
    with visitor(browser, strict_address) as one:
        one.upload(write_wave(tmp_path / "long.wav", np.zeros(20 * SAMPLE_RATE)))
        one.wait_for("#sw-status", "long.wav is longer than 2 seconds")
        one.upload("large.wav", "audio/wav", bytes(2**20 + 1))
        one.wait_for("body", "exceed the maximum allowed size")


def test_silence_is_said_to_be_silence(browser: Any, address: str) -> None:
    with visitor(browser, address) as one:
        one.button("Only noise").click()
        one.wait_for("#sw-status", "Nobody speaks")
        one.button("Answer what is said").click()
        one.wait_for("#sw-said", "Nobody speaks in this recording")


def recordings_in(folder: Path) -> list[str]:
    return [file for file in files_in(folder) if "/recordings/" in file]


def no_recordings_in(folder: Path) -> bool:
    """Whether all are gone within half a minute: the server notices a closed page a moment later."""
    for _ in range(150):
        if not recordings_in(folder):
            return True
        time.sleep(0.2)
    return False


def test_a_second_visitor_sees_nothing_of_the_first_whose_files_go_with_them(
    browser: Any, address: str, served_folder: Path
) -> None:
    assert no_recordings_in(served_folder), "those of the visitors before"
    with visitor(browser, address) as first:
        first.button("A library").click()
        assert first.words()
        kept = first.page.get_attribute("#sw-transcript audio", "src")
        with visitor(browser, address) as second:
            assert "library" not in second.page.inner_text("body").replace("A library", "")
            second.button("Answer what is said").click()
            second.wait_for("#sw-said", "There is no question")
        assert urllib.request.urlopen(address + kept).status == 200
        assert len(recordings_in(served_folder)) == 5  # the sound and four transcripts
    assert no_recordings_in(served_folder)


def beyond_the_window(one: Visitor) -> list[str]:
    """What makes the page wider than its window."""
    return list(one.page.evaluate("""() => {
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= width) return [];
        const parts = Array.from(document.querySelectorAll("body *"));
        const wide = parts.filter((part) => part.getBoundingClientRect().right > width);
        return wide.map((part) => `${part.tagName} ${part.id} ${part.className}`);
    }"""))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_it_fits_its_window_and_everybody_can_use_it(browser: Any, address: str, device: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with visitor(browser, address, DESKTOP if device == "desktop" else PHONE, scheme) as one:
        one.button("A question").focus()
        one.page.keyboard.press("Enter")
        assert one.words()
        one.button("Answer what is said").click()
        one.wait_for("#sw-said", "Answered in")
        one.page.mouse.move(0, 0)
        assert beyond_the_window(one) == []
        folder = os.environ.get("SOUNDWAVE_SCREENSHOTS")
        if folder:
            one.page.screenshot(path=Path(folder) / f"demo-{device}-{scheme}.png", full_page=True)
        for closed in ("Settings of the answer", "About this model"):
            one.page.get_by_text(closed).click()
        one.page.get_by_text("It hears English only").wait_for()
        one.page.get_by_text("The longest answer, in tokens").wait_for()
        assert beyond_the_window(one) == []
        found = Axe().run(one.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        broken = {rule["id"]: [node["html"][:200] for node in rule["nodes"]] for rule in found.response["violations"]}
        assert broken == {}


def test_the_keyboard_reaches_what_the_mouse_does(browser: Any, address: str) -> None:
    with visitor(browser, address) as one:
        one.button("A question").click()
        one.words()
        one.page.locator(".sw-record").focus()
        reached = []
        for _ in range(24):
            reached.append(one.page.evaluate(
                "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"
                " ?? document.activeElement.tagName"
            ).strip())
            one.page.keyboard.press("Tab")
        wanted = [
            "Record", "Upload a file", "A question", "Play from 0:00", "Download SRT subtitles", "Answer what is said",
            "Ask",
        ]
        assert [name for name in reached if name in wanted] == wanted


def test_a_browser_is_there_where_the_checks_of_a_change_run() -> None:
    assert CHROMIUM is not None
    assert "chromium" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
