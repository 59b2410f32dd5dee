"""The verb serve: a model behind OpenAI's API."""

from __future__ import annotations

from soundwave.cli.display import say
from soundwave.cli.loading import load
from soundwave.cli.options import DeviceOption, DtypeOption, ModelOption, QuietOption, takes
from soundwave.serving.options import ServerOptions


@takes(ServerOptions)
def serve(
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    *,
    options: ServerOptions,
    quiet: QuietOption = False,
) -> None:
    """Serve a model to programs that speak OpenAI's API; Ctrl-C lets what runs end, a second one does not.

    Try it: curl http://127.0.0.1:8000/v1/audio/transcriptions -F model=mini -F file=@question.wav
    """
    from soundwave.serving import logs
    from soundwave.serving.app import create_app
    from soundwave.serving.entrance.keys import read_keys
    from soundwave.serving.server import Server, address_of, bound_socket

    keys = read_keys(options)
    with bound_socket(options) as listener:  # before seconds of loading
        engine = load(model, device, dtype, quiet)
        app = create_app(engine, options, keys)
        logs.write_to(quiet=quiet)
        address = address_of(listener)

        def tell() -> None:
            whose = "API keys are needed" if keys else "open to this computer" if options.is_loopback else "OPEN TO ALL"
            say(f"{app.state.service.name} listens at {address}/v1 ({whose}); Ctrl-C stops it", quiet)
            say(
                f"at most {options.max_upload_mb} MB and {options.max_audio_seconds:g} s of sound a request, "
                f"{options.max_running} requests at a time, {options.max_queue} waiting", quiet,
            )
            logs.tell("listening", address=address, model=app.state.service.name, keys=bool(keys))

        Server(app, options, tell).run([listener])
    engine.close()
