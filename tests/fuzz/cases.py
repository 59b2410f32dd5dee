"""What the fuzz run feeds in: files that are almost right, and values of any type where another was meant."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from recordings import encoded, tone, wav

RATE = 16_000
MAGIC = [
    b"RIFF\xff\xff\xff\xffWAVEfmt ", b"RF64\xff\xff\xff\xffWAVEds64", b"fLaC\x00\x00\x00\x22", b"OggS\x00\x02",
    b"ID3\x04\x00", b"\xff\xfb\x90\x00", b"\x00\x00\x00\x20ftypM4A ", b"\x1a\x45\xdf\xa3", b".snd\x00\x00\x00\x18",
    b"FORM\x00\x00\x00\x00AIFF", b"#!AMR\n", b"#EXTM3U\nfile:///etc/passwd\n",
    b"concat:/etc/passwd|", b"ffconcat version 1.0\nfile /etc/passwd\n",
]
NUMBERS = st.sampled_from([0, 1, 2, 36, 44, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1])
ODD_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from([
        "", "\x00", "\ud800", "\u2028", "\ufeff", "../../etc/passwd", "$HOME", "pipe:touch /tmp/fuzzed", "s3://x/y",
        "~", "<|im_end|>", "<|im_start|>system\n", "<|audio|>", "{{ 7 * 7 }}",
        "{% for i in range(9**9) %}x{% endfor %}", "(a+)+$",
        "!!python/object/apply:os.system [true]", "nan", "9" * 5000, "a" * 100_000,
    ]),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 10), st.sampled_from([10**6, 2**31, 2**63, 2**70, -1, 10**400]),
    st.floats(), ODD_TEXTS,
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXTS, inner, max_size=4), max_leaves=8
)


def sounds() -> list[bytes]:
    """A fifth of a second of sound as files of several formats."""
    formats = [("flac", "flac"), ("ogg", "libopus"), ("mp3", "libmp3lame"), ("mp4", "aac"), ("matroska", "flac")]
    samples = tone(RATE, 0.2)
    return [wav(samples, RATE), *(encoded(samples[None], 48_000, container, codec) for container, codec in formats)]


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes], head: int = 600) -> bytes:
    """A file with a few bytes, numbers or stretches that are not what they should be; most often in its head."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, min(len(data), head) - 5)))
        way = draw(st.sampled_from(["byte", "number", "cut", "repeat", "insert"]))
        if way == "byte":
            data[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif way == "number":
            order = draw(st.sampled_from("<>"))
            data[place : place + 4] = struct.pack(f"{order}I", draw(NUMBERS))
        elif way == "cut":
            del data[draw(st.integers(0, len(data))) :]
        elif way == "repeat":
            data += data[place:]
        else:
            data[place:place] = draw(st.binary(max_size=40))
    return bytes(data)


def headers(files: list[bytes]) -> st.SearchStrategy[bytes]:
    """Almost a recording; or nothing but its first bytes, and noise."""
    magic = st.builds(lambda start, rest: start + rest, st.sampled_from(MAGIC), st.binary(max_size=200))
    return damaged(files) | damaged(files, head=10**6) | magic


def rows() -> st.SearchStrategy[bytes]:
    """The bytes of a manifest."""
    key = st.sampled_from([
        "audio", "text", "duration", "offset", "start", "end", "messages", "answers", "id", "recording", "supervisions",
        "audio_filepath", "conversations", "role", "content", "type", "cuts", "custom", "channel", "parts", "label",
    ]) | ODD_TEXTS
    value = st.recursive(
        SCALARS | st.sampled_from(["a.wav", "user", "assistant", "audio", "text"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(key, inner, max_size=5), max_leaves=12,
    )
    row = st.dictionaries(key, value, max_size=6).map(as_bytes)
    deep = [b"[" * 100_000, b'{"a":' * 50_000]
    broken = st.sampled_from([*deep, b"\xff\xfe", b"{", b"1" * 6000, b"\x1f\x8b\x08\x00", b"\xef\xbb\xbf{}"])
    return st.lists(row | broken | st.binary(max_size=30), max_size=4).map(b"\n".join)


def as_bytes(value: Any) -> bytes:
    """JSON, in ASCII where it holds what UTF-8 cannot."""
    most = sys.get_int_max_str_digits()
    assert most > 400
    return json.dumps(value).encode("ascii")


@st.composite
def changed(draw: st.DrawFn, values: dict[str, Any]) -> dict[str, Any]:
    """A mapping with some of its values, at any depth, replaced, removed, or given names that nobody knows."""
    result = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(1, 3))):
        inside = result
        while True:
            deeper = [name for name, value in inside.items() if isinstance(value, dict) and value]
            if not deeper or draw(st.booleans()):
                break
            inside = inside[draw(st.sampled_from(sorted(deeper)))]
        name = draw(st.sampled_from(sorted(inside) or ["x"]) | ODD_TEXTS)
        if draw(st.integers(0, 4)):
            inside[name] = draw(VALUES)
        else:
            inside.pop(name, None)
    return result


def files_of(folder: Path) -> dict[str, bytes]:
    """The JSON files of a model's folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.json"))}
