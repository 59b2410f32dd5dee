"""The verb live: what is said, written down while it is said."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundwave.cli import recordings, sounds, streams
from soundwave.cli.display import OBEYED, as_plain, clock, print_answer, say, to_json
from soundwave.cli.loading import load
from soundwave.cli.options import DeviceOption, DtypeOption, ModelOption, QuietOption, takes, text_argument
from soundwave.errors import ConfigurationError
from soundwave.inference.options import ListenOptions

if TYPE_CHECKING:
    from soundwave.inference.captions import Event, Partial

RATE = 16_000  # Hz, of raw samples unless something else is said
BEGINNING, DIM, PLAIN = "\r\x1b[K", "\x1b[2m", "\x1b[0m"  # to the beginning of an empty line; faint; as usual


@takes(ListenOptions)
def live(
    audio: Annotated[
        str | None,
        typer.Argument(
            metavar="AUDIO", help="A recording, or - for raw 16-bit samples of one channel on standard input; default: "
            "the microphone.",
        ),
    ] = None,
    microphone: Annotated[
        str | None, typer.Option(help="Its number, or a part of its name; default: the system's.")
    ] = None,
    sampling_rate: Annotated[int | None, typer.Option(help=f"Of raw samples, in Hz; default: {RATE}.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Do not wait until a recording would have been spoken.")] = False,
    model: ModelOption = "mini",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    *,
    options: ListenOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Write down what is said while it is said; Ctrl-C ends.

    On a terminal the words under way are shown, faint as long as they may change. Elsewhere only utterances that are
    over are printed, a line each.
    """
    streams.need_output()
    if sampling_rate is not None and audio != "-":
        raise ConfigurationError("--sampling-rate is for raw samples on standard input; give - as the recording.")
    if microphone is not None and audio is not None:
        raise ConfigurationError("--microphone and a recording were both given; leave one out.")
    if fast and audio is None:
        raise ConfigurationError("--fast is for a recording, or - ; a microphone cannot be heard faster.")
    options = replace(options, hotwords=tuple(text_argument("--hotwords", word) for word in options.hotwords))
    stop = threading.Event()
    rate = RATE if sampling_rate is None else sampling_rate
    if audio is None:
        heard_by = sounds.Microphone(microphone, stop)
        heard, rate = heard_by.heard(), heard_by.rate
    elif audio == "-":
        heard = sounds.raw(streams.standard_input(), rate, stop, fast)
    else:
        heard = sounds.recording(recordings.recording(audio).audio, stop, fast)
    engine = load(model, device, dtype, quiet, backend="none" if options.llm is False else "torch")
    show = _json_lines if as_json else _Captions().show
    with engine.listen(options, sampling_rate=rate) as session, _stopped_by_ctrl_c(stop):
        say("listening; Ctrl-C ends", quiet)
        for samples, behind in heard:
            for event in session.feed(samples, behind):
                show(event)
        for event in session.finish():
            show(event)


@contextmanager
def _stopped_by_ctrl_c(stop: threading.Event) -> Iterator[None]:
    """Within it, the first Ctrl-C lets what is under way be finished; the second one is as everywhere."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only there signals can be handled
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _json_lines(event: Event) -> None:
    print_answer(to_json({"event": type(event).__name__.lower(), **as_plain(event)}))


class _Captions:
    """Lines for people: those of utterances that are over stay, that of the words under way is written anew."""

    def __init__(self) -> None:
        self._stream = streams.answers()
        self._watched = self._stream.isatty()

    def show(self, event: Event) -> None:
        from soundwave.inference.captions import Partial

        if isinstance(event, Partial):
            if self._watched:
                self._write(BEGINNING + _line(event, shutil.get_terminal_size().columns - 1))
            return
        if self._watched:
            self._write(BEGINNING)
        if event.text:
            print_answer(f"[{clock(event.start)} - {clock(event.end)}] {event.text}")

    def _write(self, text: str) -> None:
        print(text, end="", file=self._stream, flush=True)


def _line(partial: Partial, width: int) -> str:
    """The last words that fit on a line of a terminal, those that may still change faint."""
    standing = " ".join(word.text for word in partial.words[: partial.stable])
    text = partial.text.translate(OBEYED)
    hidden = max(0, len(text) - width)
    return text[hidden : max(hidden, len(standing))] + DIM + text[max(hidden, len(standing)) :] + PLAIN
