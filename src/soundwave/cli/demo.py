"""The verb demo: a page in the browser to record, upload, read and ask."""

from __future__ import annotations

import signal
import threading
from typing import Any

from soundwave.cli.display import note, say
from soundwave.cli.loading import load
from soundwave.cli.options import DeviceOption, DtypeOption, ModelOption, QuietOption, takes
from soundwave.serving.demo.options import DemoOptions, is_loopback


@takes(DemoOptions)
def demo(
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    *,
    options: DemoOptions,
    quiet: QuietOption = False,
) -> None:
    """Serve a page to try the model with: record or upload, read what was said, ask about it; Ctrl-C ends.

    It needs no connection to anywhere. Others on the network reach it only with --host and --insecure.
    """
    from soundwave.serving.demo.launching import served  # gradio takes seconds to import

    if not is_loopback(options.host):
        note(f"everybody who reaches {options.host} can use this page and this machine's model", quiet)
    engine = load(model, device, dtype, quiet)
    stop = threading.Event()
    with served(engine, options) as address:
        note(f"the demo is at {address} ; Ctrl-C ends", quiet)
        _wait(stop)
    say("the demo has ended, and what was given to it is deleted", quiet)


def _wait(stop: threading.Event) -> None:
    """Until Ctrl-C or the system says that it is enough; both are the usual end."""

    def handle(*_: Any) -> None:
        stop.set()

    before = {sign: signal.signal(sign, handle) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop.wait()
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
