"""How a server of two cores bears many clients: throughput beside a single-request loop, latencies, errors, memory.

A real server process is asked over HTTP: short and 30-s recordings are written down, some are asked about, some
requests are wrong, and some clients leave before their answer is whole. First one client asks in a loop, then many do.

    python benchmarks/serving_load.py dev-librispeech/manifest.jsonl --minutes 5 --json serving-load.json
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
import wave
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import numpy as np
from timing import machine_facts

from soundwave.audio import SAMPLE_RATE, load_audio

KINDS = {"short": 0.60, "long": 0.15, "ask": 0.10, "wrong": 0.10, "leaves": 0.05}  # shares of the requests
LONG_SECONDS = 30
PATIENCE = 600.0  # seconds that a client waits for an answer
LEAVES_AFTER = 0.5  # seconds
MEMORY_SECONDS = 2.0  # between two looks at the server's memory
WARM_SHARE = 0.2  # of the time, after which memory should grow no more
PAGE_KB = 1024


@dataclass
class Told:
    """What came of the requests of one run.

    Attributes:
        seconds: of every answer, by kind.
        statuses: how often each came.
        audio: seconds of sound in answers that came whole.
        wall: seconds of the run.
        memory: (second, megabytes) of the server's process.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    statuses: Counter[str] = field(default_factory=Counter)
    audio: float = 0.0
    wall: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """The run in numbers."""
        failed = sum(count for status, count in self.statuses.items() if status.startswith("5"))
        grown = self.grown()
        return {
            "requests": sum(self.statuses.values()), "statuses": dict(sorted(self.statuses.items())),
            "5xx": failed, "wall_seconds": round(self.wall, 1), "audio_seconds": round(self.audio, 1),
            "audio_seconds_a_second": round(self.audio / max(self.wall, 1e-9), 2),
            "latency": {kind: latency(some) for kind, some in self.seconds.items() if some},
            "memory_mb": [round(memory) for _, memory in self.memory],
            "memory_grown": None if grown is None else round(grown, 4),
        }

    def grown(self) -> float | None:
        """By which share the server's memory grew from the end of its warming up to the end of the run."""
        after = [memory for second, memory in self.memory if second >= WARM_SHARE * self.wall]
        part = max(1, len(after) // 4)
        return None if len(after) < 2 else float(np.median(after[-part:]) / np.median(after[:part]) - 1)


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """The middle one, and the one that 95 of 100 stay under."""
    marks = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 99
    return {"count": len(seconds), "p50": round(marks[49], 3), "p95": round(marks[94], 3)}


@dataclass(frozen=True)
class Clip:
    """A recording as it is sent."""

    data: bytes
    seconds: float

    @classmethod
    def of(cls, samples: np.ndarray) -> Clip:
        """16-bit WAV of (samples,) at 16 kHz."""
        written = io.BytesIO()
        with wave.open(written, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes((samples * 32767).astype("<i2").tobytes())
        return cls(written.getvalue(), len(samples) / SAMPLE_RATE)


def clips_of(manifest: Path, every: int) -> dict[str, list[Clip]]:
    """Short recordings as they are, and long ones that are several of them one after the other."""
    lines = manifest.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()][::every]
    sounds = [load_audio(manifest.parent / row["audio"], max_seconds=None) for row in rows]
    joined = np.concatenate(sounds)
    size = LONG_SECONDS * SAMPLE_RATE
    long = [joined[first : first + size] for first in range(0, max(1, len(joined) - size + 1), size)]
    return {"short": [Clip.of(one) for one in sounds], "long": [Clip.of(one) for one in long]}


class Client:
    """Asks one thing after the other.

    Args:
        http: of the server.
        model: its name there.
        clips: what is sent.
        told: where the outcome is written.
        seed: of what is asked, in which order.
    """

    def __init__(self, http: httpx.AsyncClient, model: str, clips: dict[str, list[Clip]], told: Told, seed: int):
        self.http, self.model, self.clips, self.told = http, model, clips, told
        self.draw = random.Random(seed)

    async def ask_until(self, end: float) -> None:
        """Asks until a moment; what is asked before it is waited for."""
        while time.perf_counter() < end:
            await self.ask(self.draw.choices(list(KINDS), list(KINDS.values()))[0])

    async def ask(self, kind: str) -> None:
        """Asks once."""
        clip = self.draw.choice(self.clips["long" if kind == "long" else "short"])
        began = time.perf_counter()
        try:
            answer = await getattr(self, f"_{kind}")(clip)
        except httpx.TimeoutException:
            self.told.statuses["left" if kind == "leaves" else "no answer"] += 1
            return
        except httpx.HTTPError as problem:
            self.told.statuses[type(problem).__name__] += 1
            return
        self.told.statuses[str(answer.status_code)] += 1
        self.told.seconds[kind].append(time.perf_counter() - began)
        if answer.status_code == 200:
            self.told.audio += clip.seconds

    async def _short(self, clip: Clip) -> httpx.Response:
        files = {"file": ("a.wav", clip.data, "audio/wav")}
        return await self.http.post("/v1/audio/transcriptions", data={"model": self.model}, files=files)

    _long = _short

    async def _leaves(self, clip: Clip) -> httpx.Response:
        files = {"file": ("a.wav", clip.data, "audio/wav")}
        return await self.http.post(
            "/v1/audio/transcriptions", data={"model": self.model}, files=files, timeout=LEAVES_AFTER
        )

    async def _ask(self, clip: Clip) -> httpx.Response:
        audio = {"data": base64.b64encode(clip.data).decode(), "format": "wav"}
        content = [{"type": "input_audio", "input_audio": audio}, {"type": "text", "text": "What is it about?"}]
        body = {"model": self.model, "max_tokens": 24, "messages": [{"role": "user", "content": content}]}
        return await self.http.post("/v1/chat/completions", json=body)

    async def _wrong(self, clip: Clip) -> httpx.Response:
        data, name = self.draw.choice(
            [(clip.data[:40], "file"), (b"no sound", "file"), (b"", "file"), (clip.data, "nothing")]
        )
        files = {name: ("a.wav", data, "audio/wav")}
        return await self.http.post("/v1/audio/transcriptions", data={"model": self.model}, files=files)


async def run(
    address: str, clips: dict[str, list[Clip]], clients: int, seconds: float, seed: int,
    memory: Callable[[], float | None],
) -> Told:
    """Lets clients ask for so long, and waits for their last answers."""
    told = Told()
    limits = httpx.Limits(max_connections=clients * 2, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE, limits=limits) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        began = time.perf_counter()
        watcher = asyncio.create_task(_watch(told, memory, began))
        asking = [Client(http, model, clips, told, seed + i).ask_until(began + seconds) for i in range(clients)]
        await asyncio.gather(*asking)
        told.wall = time.perf_counter() - began
        watcher.cancel()
    return told


async def _watch(told: Told, memory: Callable[[], float | None], began: float) -> None:
    while True:
        if (megabytes := memory()) is not None:
            told.memory.append((time.perf_counter() - began, megabytes))
        await asyncio.sleep(MEMORY_SECONDS)


def memory_of(process: int | None) -> float | None:
    """Resident megabytes of a process; None where nobody knows."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if process is not None and status.exists() else []
    sizes = [int(line.split()[1]) / PAGE_KB for line in lines if line.startswith("VmRSS")]
    return sizes[0] if sizes else None


@contextmanager
def server(model: str, flags: Sequence[str]) -> Iterator[tuple[str, int]]:
    """A server's process: its address, and its number."""
    command = [sys.executable, "-m", "soundwave", "serve", "--model", model, "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("{") and (told := json.loads(line))["event"] == "listening":
                break
        else:
            raise SystemExit("the server did not start")
        # a log that nobody reads would hold the server up once the pipe is full
        threading.Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
        yield told["address"], process.pid
    finally:
        process.terminate()
        process.wait(60)


def measure(
    address: str, process: int | None, clips: dict[str, list[Clip]], chosen: argparse.Namespace
) -> dict[str, Any]:
    """One client in a loop, then many of them."""
    def watched() -> float | None:
        return memory_of(process)

    alone = asyncio.run(run(address, clips, 1, chosen.alone_minutes * 60, chosen.seed, watched)).figures()
    many = asyncio.run(run(address, clips, chosen.clients, chosen.minutes * 60, chosen.seed, watched)).figures()
    ratio = many["audio_seconds_a_second"] / max(alone["audio_seconds_a_second"], 1e-9)
    return {"alone": alone, "many": many, "throughput_ratio": round(ratio, 3)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="recordings")
    parser.add_argument("--model", default="mini", help="what is served (%(default)s)")
    parser.add_argument("--address", help="a server that runs already; default: one is started")
    parser.add_argument("--clients", type=int, default=64, help="that ask at the same time (%(default)s)")
    parser.add_argument("--minutes", type=float, default=5.0, help="for which they ask (%(default)s)")
    parser.add_argument("--alone-minutes", type=float, default=1.0, help="for which one asks before (%(default)s)")
    parser.add_argument("--every", type=int, default=4, help="take every so-manieth clip (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked (%(default)s)")
    parser.add_argument("--flags", default="", help="for the server, such as '--max-running 2'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    clips = clips_of(chosen.manifest, chosen.every)
    if chosen.address:
        result = measure(chosen.address, None, clips, chosen)
    else:
        with server(chosen.model, chosen.flags.split()) as (address, process):
            result = measure(address, process, clips, chosen)
    for name in ("alone", "many"):
        one = result[name]
        print(f"{name}: {one['requests']} requests, {one['audio_seconds_a_second']} s of sound a second, "
              f"{one['5xx']} answers 5xx, statuses {one['statuses']}")
        for kind, times in one["latency"].items():
            print(f"    {kind:7} {times['count']:5} x   p50 {times['p50']:7.2f} s   p95 {times['p95']:7.2f} s")
    grown = result["many"]["memory_grown"]
    print(f"throughput {result['throughput_ratio']} times the loop's"
          + ("" if grown is None else f"; memory grew by {100 * grown:.1f} %"))
    if chosen.json:
        about = {"clients": chosen.clients, "seed": chosen.seed, "kinds": KINDS, "cpu_count": os.cpu_count(),
                 "data": chosen.manifest.parent.name, **result, **machine_facts()}
        chosen.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
