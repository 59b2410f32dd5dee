"""The demo as a process: a folder for what visitors give, the page, a port, and an end that leaves nothing."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soundwave.errors import SoundwaveError
from soundwave.inference.engine import Engine
from soundwave.serving.demo.actions import Actions
from soundwave.serving.demo.options import DemoOptions
from soundwave.serving.demo.page import page, text_of, theme

SWEEP_EVERY = 30.0  # seconds between two looks for visitors who are gone


@contextmanager
def served(engine: Engine, options: DemoOptions) -> Iterator[str]:
    """Serves the page while the block runs, and gives its address; afterwards nothing of any visitor is left.

    Raises:
        SoundwaveError: the port is taken, or the address is none of this machine's.
    """
    with tempfile.TemporaryDirectory(prefix="soundwave-demo-") as folder:
        actions = Actions(engine, options, Path(folder).resolve())
        blocks = page(engine, actions, options)
        ended = threading.Event()
        sweeper = threading.Thread(target=_sweep, args=(actions, ended), daemon=True)
        try:
            _, address, _ = blocks.launch(
                server_name=options.host, server_port=options.port, prevent_thread_lock=True, quiet=True, share=False,
                inbrowser=False, show_error=False, max_file_size=options.max_megabytes * 2**20,
                allowed_paths=[folder, str(Path(folder).resolve())], footer_links=[], run_history=False,
                enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, theme=theme(),
                css=text_of("style.css"),
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


def _sweep(actions: Actions, ended: threading.Event) -> None:
    while not ended.wait(SWEEP_EVERY):
        actions.visits.sweep()
        actions.microphones.sweep()
