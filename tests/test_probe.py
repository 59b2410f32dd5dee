"""A recording's length is that of its sound: from the header where that holds, counted where it does not."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
import soundfile
from recordings import encoded, tone

from soundwave.audio import iter_audio
from soundwave.audio.headers import header_holds
from soundwave.data import probe
from soundwave.data.probe import facts_of


def flac(seconds: float, rate: int = 16_000) -> bytes:
    return encoded(tone(rate, seconds, channels=1), rate, "flac", "flac")


def mp3(seconds: float) -> bytes:
    return encoded(tone(16_000, seconds, channels=1), 16_000, "mp3", "libmp3lame")


def ogg(seconds: float) -> bytes:
    return encoded(tone(48_000, seconds, channels=1), 48_000, "ogg", "libopus")


def wav(seconds: float, size: int | None = None) -> bytes:
    """A WAV whose header states another size of its sound."""
    file = io.BytesIO()
    soundfile.write(file, tone(16_000, seconds), 16_000, format="WAV", subtype="PCM_16")
    data = file.getvalue()
    return data if size is None else data[:40] + struct.pack("<I", size) + data[44:]


@pytest.mark.parametrize(
    ("name", "content", "seconds", "holds"),
    [
        ("one.flac", flac(2), 2, True),
        ("joined.flac", flac(2) + flac(3), 5, False),
        ("one.ogg", ogg(2), 2, True),
        ("joined.ogg", ogg(2) + ogg(3), 5, False),
        ("one.mp3", mp3(2), 2, True),
        ("tagged.mp3", mp3(2) + b"TAG" + bytes(125), 2, True),
        ("joined.mp3", mp3(2) + mp3(3), 5, False),
        ("one.wav", wav(2), 2, True),
        ("joined.wav", wav(2) + wav(3), 5, False),
        ("streamed.wav", wav(2, 0xFFFFFFFF), 2, True),
        ("more-than-stated.wav", wav(2, 16_000), 2, False),
    ],
)
def test_a_length_is_the_sounds_and_not_the_headers(
    tmp_path: Path, name: str, content: bytes, seconds: float, holds: bool
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert header_holds(str(path)) is holds
    facts = facts_of(str(path))
    assert facts.seconds == pytest.approx(seconds, abs=0.2 if name == "joined.mp3" else 0.01)  # a joint has padding
    assert facts.seconds == pytest.approx(facts.frames / facts.rate, abs=1e-4)
    decoded = sum(len(block) for block in iter_audio(path, on_warning=lambda _: None)) / 16_000
    assert facts.seconds == pytest.approx(decoded, abs=0.001)


def test_rate_and_channels_stay_the_headers_where_the_length_is_counted(tmp_path: Path) -> None:
    stereo = encoded(tone(44_100, 1, channels=2), 44_100, "flac", "flac")
    (tmp_path / "joined.flac").write_bytes(stereo + stereo)
    facts = facts_of(str(tmp_path / "joined.flac"))
    assert (facts.rate, facts.channels, facts.frames, facts.format) == (44_100, 2, 88_200, "FLAC")


def test_a_header_that_holds_saves_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr(probe, "iter_audio", fail)
    for name, content in (("a.flac", flac(1)), ("a.wav", wav(1)), ("a.mp3", mp3(1)), ("a.ogg", ogg(1))):
        (tmp_path / name).write_bytes(content)
        assert facts_of(str(tmp_path / name)).seconds == pytest.approx(1, abs=0.01)
