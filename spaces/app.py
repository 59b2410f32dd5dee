"""The demo as a Hugging Face Space: `soundwave demo` for everybody, with the model that SOUNDWAVE_MODEL names."""

import os

import soundwave
from soundwave.serving.demo.launching import served, told_to_stop
from soundwave.serving.demo.options import DemoOptions

# A Space is open to all, and says by these variables where it wants to be reached.
OPTIONS = DemoOptions(
    host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    insecure=True,
)

if __name__ == "__main__":
    engine = soundwave.load(os.environ.get("SOUNDWAVE_MODEL", "mini"))
    with told_to_stop() as stop, served(engine, OPTIONS) as address:
        print(f"the demo is at {address}", flush=True)
        stop.wait()
