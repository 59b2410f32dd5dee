"""A served demo page and a Chromium that visits it, for the tests of the page.

What every page asks for is noted, so that a test can tell whether any of it came from elsewhere.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soundwave.audio import SAMPLE_RATE
from soundwave.serving.demo.visits import new_wave

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")

PATIENCE = 120_000  # ms; a busy machine is no failure
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 812}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Visitor:
    """A browser window on the page.

    Attributes:
        page: playwright's.
        asked: every address that the page asked for.
        faults: what its scripts complained about.
    """

    def __init__(self, page: Any, address: str):
        self.page, self.asked, self.faults = page, list[str](), list[str]()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.goto(address)
        page.wait_for_selector(".sw-record")

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def upload(self, *file: Any) -> None:
        """A path, or a name, a type and bytes."""
        given = str(file[0]) if len(file) == 1 else {"name": file[0], "mimeType": file[1], "buffer": file[2]}
        with self.page.expect_file_chooser() as chooser:
            self.button("Upload a file").click()
        chooser.value.set_files(given)

    def wait_for(self, place: str, text: str) -> str:
        """The text at a place, once it has a certain one in it."""
        self.page.wait_for_function(
            "([place, text]) => document.querySelector(place)?.innerText.includes(text)", arg=[place, text]
        )
        return str(self.page.inner_text(place))

    def words(self) -> list[str]:
        """Those of the transcript, once it is whole."""
        self.page.wait_for_selector("#sw-transcript audio")
        return [str(word) for word in self.page.locator("#sw-transcript .sw-word").all_inner_texts()]


@contextmanager
def chromium(playwright: Any, *more: str) -> Iterator[Any]:
    """Debian's browser, with a microphone that is none and needs no permission."""
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", *more]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def visitor(browser: Any, address: str, size: dict[str, int] = DESKTOP, scheme: str = "light") -> Iterator[Visitor]:
    """A visitor with a window of their own, who leaves; nothing was asked for from elsewhere, and no script failed."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    try:
        someone = Visitor(context.new_page(), address)
        yield someone
    finally:
        context.close()
    elsewhere = [url for url in someone.asked if not url.startswith((address, "data:", "blob:"))]
    assert (elsewhere, someone.faults) == ([], [])


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def write_wave(path: Path, samples: np.ndarray) -> Path:
    """(T,) float samples at 16 kHz as a file."""
    with closing(new_wave(path, SAMPLE_RATE)) as file:
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path
