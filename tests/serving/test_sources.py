"""Recordings in requests: base64 is read strictly, addresses of allowed and public hosts alone, and both bounded."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import tone, wav

from soundwave.audio import SAMPLE_RATE
from soundwave.serving.entrance.fetching import Fetcher, is_public
from soundwave.serving.entrance.sources import FORMATS, AudioSources
from soundwave.serving.errors import ApiError
from soundwave.serving.options import ServerOptions

CLIP = wav((tone(SAMPLE_RATE) * 32_767).astype(np.int16), SAMPLE_RATE)
TEXT = base64.b64encode(CLIP).decode()
HOST = "audio.example"


def input_audio(data: Any, form: Any = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": form}}


def audio_url(url: Any) -> dict[str, Any]:
    return {"type": "audio_url", "audio_url": {"url": url}}


def read(part: dict[str, Any], fetcher: Fetcher | None = None, **options: Any) -> bytes:
    return asyncio.run(AudioSources(ServerOptions(**options), fetcher).from_part(part, "messages[0].content[1]"))


def refused(part: dict[str, Any], fetcher: Fetcher | None = None, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(part, fetcher, **options)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert str(caught.value.param).startswith("messages[0].content[1].")
    return caught.value


# --- base64 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", [
        input_audio(TEXT), input_audio(TEXT, None), input_audio(TEXT, "mp3"),
        audio_url(f"data:audio/wav;base64,{TEXT}"), audio_url(f"DATA:;BASE64,{TEXT}"),
        {"type": "input_audio", "input_audio": {"data": TEXT}}, input_audio(f"data:audio/wav;base64,{TEXT}"),
    ],
)
def test_a_recording_comes_as_base64_or_as_a_data_url(part: dict[str, Any]) -> None:
    assert read(part) == CLIP


@pytest.mark.parametrize("form", FORMATS)
def test_formats_have_the_names_that_clients_know(form: str) -> None:
    assert read(input_audio(TEXT, form)) == CLIP


@pytest.mark.parametrize(
    ("part", "told", "where"), [
        (input_audio(TEXT[:100] + "\n" + TEXT[100:]), "is not base64", "input_audio.data"),
        (input_audio(TEXT[:-3]), "is not base64", "input_audio.data"),
        (input_audio("äöü="), "is not base64", "input_audio.data"),
        (input_audio("data:audio/wav;base64,x"), "is not base64", "input_audio.data"),
        (input_audio(TEXT + "!"), "is not base64", "input_audio.data"),
        (input_audio(""), "is empty", "input_audio.data"),
        (input_audio(None), "give a text", "input_audio.data"),
        (input_audio(7), "give a text", "input_audio.data"),
        (input_audio(TEXT, "m3u8"), "'m3u8'; give one of wav, mp3", "input_audio.format"),
        (input_audio(TEXT, ["wav"]), "give one of wav, mp3", "input_audio.format"),
        ({"type": "input_audio", "input_audio": "x"}, "give an object", "input_audio"),
        ({"type": "input_audio"}, "give an object", "input_audio"),
        ({"type": "image_url"}, "holds no audio", "type"),
        (audio_url("data:audio/wav,abc"), "a data URL begins like", "audio_url.url"),
        (audio_url("data:audio/wav;base64"), "a data URL begins like", "audio_url.url"),
        (audio_url(["x"]), "give a text", "audio_url.url"),
        (audio_url(None), "give a text", "audio_url.url"),
    ],
)
def test_what_is_not_a_recording_is_refused_by_the_name_of_its_field(
    part: dict[str, Any], told: str, where: str
) -> None:
    error = refused(part)
    assert (error.status, error.param) == (400, f"messages[0].content[1].{where}")
    assert told in error.message


def test_too_many_bytes_are_refused_before_they_are_decoded() -> None:
    megabyte = base64.b64encode(bytes(2**20)).decode()
    assert len(read(input_audio(megabyte), max_upload_mb=1)) == 2**20
    assert refused(input_audio(megabyte + "AAAA"), max_upload_mb=1).status == 413
    assert refused(input_audio("!" * 2**21), max_upload_mb=1).status == 413


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.8.8", "169.254.169.254",
        "172.16.0.1", "192.0.0.8", "192.0.2.1", "192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "168.63.129.16", "::", "::1", "::ffff:8.8.8.8",
        "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "100::1",
        "2001:db8::1", "2002:7f00:1::", "2001:0:1::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1",
        "ff02::1", "localhost", "", "127.1", "0x7f000001",
    ],
)
def test_addresses_that_nothing_is_fetched_from(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("url", "code"), [
        (f"https://{HOST}.evil.example/a", "audio_url_not_allowed"),
        ("https://other.example/a", "audio_url_not_allowed"),
        (f"https://{HOST}./a.wav", "audio_url_not_allowed"), ("https://127.0.0.1/a", "audio_url_not_allowed"),
        ("https://[::1]/a", "audio_url_not_allowed"), (f"https://x@{HOST}/a", "invalid_audio_url"),
        (f"https://{HOST}@other.example/a", "invalid_audio_url"), (f"https://{HOST}:8443/a", "invalid_audio_url"),
        (f"https://other.example#@{HOST}/", "audio_url_not_allowed"), (f"https://other.example\\@{HOST}/", None),
        (f"http://{HOST}/a.wav", "invalid_audio_url"), ("file:///etc/passwd", "invalid_audio_url"),
        ("/etc/passwd", "invalid_audio_url"), ("", "invalid_audio_url"), (f"ftp://{HOST}/a", "invalid_audio_url"),
        (f"gopher://{HOST}/a", "invalid_audio_url"), (f"https://{HOST}:99999999/a", "invalid_audio_url"),
        ("https://", None), (f"https://{HOST}/a\r\nX: y", "invalid_audio_url"), ("x" * 100_000, "invalid_audio"),
    ],
)
def test_only_https_addresses_of_allowed_hosts_are_looked_at(url: str, code: str | None) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was looked up")

    error = refused(audio_url(url), Fetcher([HOST], 1000, 1.0, resolve=resolve))
    assert error.status == 400
    assert code in (None, error.code)


def test_no_address_is_fetched_unless_a_host_is_allowed() -> None:
    assert "fetches from no host" in refused(audio_url(f"https://{HOST}/a.wav")).message


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["93.184.215.14", "::1"], []])
def test_a_name_of_which_any_address_is_private_is_not_asked(addresses: list[str]) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return addresses

    error = refused(audio_url(f"https://{HOST}/a.wav"), Fetcher([HOST], 1000, 1.0, resolve=resolve))
    assert error.code == "audio_url_not_allowed"


def test_a_name_that_nobody_knows_is_told() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    error = refused(audio_url(f"https://{HOST}/a.wav"), Fetcher([HOST], 1000, 1.0, resolve=resolve))
    assert (error.status, error.code) == (400, "audio_url_unreachable")
    assert "Name or service not known" in error.message


# --- fetching, from a server with a certificate of its own -----------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of HOST, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not installed")
    file = tmp_path_factory.mktemp("tls") / "host.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test -addext"
    made = [*command.split(), f"subjectAltName=DNS:{HOST}", "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(made, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


class Host:
    """A server that answers each path as it is told to, byte by byte; keeps what it was asked."""

    def __init__(self, certificate: Path, answers: dict[str, bytes | Callable[[Any], Coroutine[Any, Any, None]]]):
        self.certificate, self.answers, self.asked = certificate, answers, []  # type: ignore[var-annotated]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.certificate)
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=tls)
        yield server.sockets[0].getsockname()[1]
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        answer = self.answers[head.split()[1]]
        try:
            if callable(answer):
                await answer(writer)
            else:
                writer.write(answer)
                await writer.drain()
        except OSError:  # the client has gone
            pass
        finally:
            writer.close()


def fetched(host: Host, path: str, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> bytes:
    """What a fetcher that takes the loopback for the world gets from a host."""

    async def run() -> bytes:
        async with host.serving() as port:
            monkeypatch.setattr("soundwave.serving.entrance.fetching.HTTPS_PORT", port)

            async def resolve(name: str, port: int) -> list[str]:
                return ["127.0.0.1"]

            settings = {"most_bytes": 100_000, "seconds": 5.0} | limits
            trusted = ssl.create_default_context(cafile=f"{host.certificate}.crt")
            fetcher = Fetcher([HOST], resolve=resolve, public=lambda address: True, tls=trusted, **settings)
            return await fetcher.fetch(f"https://{HOST}:{port}{path}", "url")

    return asyncio.run(run())


def not_fetched(host: Host, path: str, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        fetched(host, path, monkeypatch, **limits)
    return caught.value


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def test_the_checked_address_is_asked_by_the_hosts_name(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS too: the certificate is the name's, and connections to 127.0.0.1 by that name are the only ones."""
    host = Host(certificate, {"/a.wav?x=1": answer(CLIP, f"Content-Length: {len(CLIP)}")})
    assert fetched(host, "/a.wav?x=1", monkeypatch) == CLIP
    (head,) = host.asked
    assert f"host: {HOST}:" in head.lower()
    assert "authorization" not in head.lower()
    assert "cookie" not in head.lower()


def test_a_host_with_the_certificate_of_another_is_not_read(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.HOST", "another.example")
    error = not_fetched(Host(certificate, {}), "/a.wav", monkeypatch)
    assert error.code == "audio_url_unreachable"
    assert "certificate" in error.message


def test_redirects_are_followed_to_allowed_hosts_alone(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = "302 Found"
    host = Host(certificate, {
        "/1": answer(b"", "Location: /2", status=moved), "/2": answer(b"", "Location: a.wav", status="308 Moved"),
        "/a.wav": answer(CLIP), "/loop": answer(b"", "Location: /loop", status=moved),
        "/other": answer(b"", "Location: https://other.example/a", status=moved),
        "/plain": answer(b"", f"Location: http://{HOST}/a", status=moved),
        "/inside": answer(b"", "Location: https://169.254.169.254/latest", status=moved),
        "/file": answer(b"", "Location: file:///etc/passwd", status=moved), "/none": answer(b"", status=moved),
    })
    assert fetched(host, "/1", monkeypatch) == CLIP
    for path, told in [
        ("/loop", "more than 3 times"), ("/other", "'other.example'"), ("/plain", "only https"),
        ("/inside", "'169.254.169.254'"), ("/file", "only https"), ("/none", "more than 3 times"),
    ]:
        error = not_fetched(host, path, monkeypatch)
        assert (error.status, told in error.message) == (400, True), (path, error.message)


def test_too_many_bytes_are_not_waited_for(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", "Transfer-Encoding: chunked"))
        while True:
            writer.write(b"400\r\n" + bytes(1024) + b"\r\n")
            await writer.drain()

    host = Host(certificate, {"/stated": answer(b"", "Content-Length: 100001"), "/endless": endless})
    for path in ("/stated", "/endless"):
        assert not_fetched(host, path, monkeypatch).status == 413


def test_a_slow_host_is_given_up(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def drop_by_drop(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", "Content-Length: 10000"))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def nothing(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3)

    host = Host(certificate, {"/drops": drop_by_drop, "/nothing": nothing})
    for path in ("/drops", "/nothing"):
        started = time.perf_counter()
        error = not_fetched(host, path, monkeypatch, seconds=0.5)
        assert (error.status, error.code) == (400, "audio_url_timeout")
        assert time.perf_counter() - started < 2.5


def test_answers_that_are_none_are_told(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(certificate, {
        "/404": answer(b"", status="404 Not Found"), "/204": answer(b"", status="204 No Content"),
        "/zip": answer(b"x", "Content-Encoding: gzip"), "/cut": answer(b"x", "Content-Length: 10"),
        "/junk": b"\x00\x01junk\r\n\r\n", "/gone": b"",
    })
    for path in host.answers:
        assert not_fetched(host, path, monkeypatch).status == 400
