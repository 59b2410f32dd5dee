"""The verb demo: a page in the browser to record, upload, read and ask."""

from __future__ import annotations

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
    from soundwave.serving.demo.launching import served, told_to_stop  # gradio takes seconds to import

    if not is_loopback(options.host):
        note(f"everybody who reaches {options.host} can use this page and this machine's model", quiet)
    engine = load(model, device, dtype, quiet)
    with told_to_stop() as stop, served(engine, options) as address:
        note(f"the demo is at {address} ; Ctrl-C ends", quiet)
        stop.wait()
    say("the demo has ended, and what was given to it is deleted", quiet)
