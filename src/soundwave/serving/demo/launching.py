"""The demo as a process: a folder for what visitors give, the page, a port, and an end that leaves nothing."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soundwave.errors import SoundwaveError
from soundwave.inference.engine import Engine
from soundwave.serving.demo.actions import Actions
from soundwave.serving.demo.options import DemoOptions
from soundwave.serving.demo.page import page, text_of, theme

SWEEP_EVERY = 30.0  # seconds between two looks for visitors who are gone
UPLOADS_KEPT = 600.0  # seconds until an upload that nobody came for is deleted
MOST_BODY = 8 * 2**20  # bytes of a request that is no upload; a piece of sound has 3 MB at most


@contextmanager
def served(engine: Engine, options: DemoOptions) -> Iterator[str]:
    """Serves the page while the block runs, and gives its address; afterwards nothing of any visitor is left.

    Raises:
        SoundwaveError: the port is taken, or the address is none of this machine's.
    """
    with tempfile.TemporaryDirectory(prefix="soundwave-demo-") as temporary, _uploads_in(temporary):
        folder = Path(temporary).resolve()
        (folder / "recordings").mkdir()
        actions = Actions(engine, options, folder / "recordings")
        blocks = page(engine, actions, options)
        ended = threading.Event()
        sweeper = threading.Thread(target=_sweep, args=(actions, folder / "uploads", ended), daemon=True)
        try:
            _, address, _ = blocks.launch(
                server_name=options.host, server_port=options.port, prevent_thread_lock=True, quiet=True, share=False,
                inbrowser=False, show_error=False, max_file_size=options.max_megabytes * 2**20,
                allowed_paths=[str(actions.folder)], footer_links=[], run_history=False,
                enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, theme=theme(),
                css=text_of("style.css"), app_kwargs={"middleware": [Middleware(BoundedBodies)]},
            )
        except OSError as error:
            raise SoundwaveError(
                f"the demo cannot listen at {options.host}:{options.port} ({error}); give another --port, such as "
                f"{options.port + 1}."
            ) from error
        try:
            sweeper.start()
            yield str(address)
        finally:
            ended.set()
            blocks.close(verbose=False)


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """Gives an event that Ctrl-C and the system's request to end set; within it, both do nothing else.

    So a second Ctrl-C does not break off the deletion of what visitors gave.
    """
    stop = threading.Event()

    def handle(*_: Any) -> None:
        stop.set()

    before = {sign: signal.signal(sign, handle) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _sweep(actions: Actions, uploads: Path, ended: threading.Event) -> None:
    while not ended.wait(SWEEP_EVERY):
        actions.visits.sweep()
        actions.microphones.sweep()
        # Uploads that were read are gone; what is left was broken off, or too large, and Gradio forgets it.
        for path in [path for path in uploads.rglob("*") if path.is_file()]:
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - UPLOADS_KEPT:
                    path.unlink()


@contextmanager
def _uploads_in(folder: str) -> Iterator[None]:
    """Within it, Gradio keeps what is uploaded in a folder that is ours to delete; it knows no other way to be told."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(Path(folder).resolve() / "uploads")
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


class BoundedBodies:
    """An ASGI application that cuts off requests with too large a body; Gradio bounds uploads, and nothing else."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        count = 0

        async def bounded() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            return message if count <= MOST_BODY else {"type": "http.disconnect"}

        await self.app(scope, bounded, send)
