"""A recording at an https address, fetched without being led anywhere that nobody allowed.

Only hosts of a list are asked. A name is looked up once; each of its addresses must be a public one, and the connection
goes to an address that was checked, so that a name cannot change its mind in between. Redirects are followed by hand,
with all of these checks. Size and time are limited while bytes come. It knows nothing about sound.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

import httpx

from soundwave.errors import shown
from soundwave.serving.errors import ApiError

MOST_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
HTTPS_PORT = 443
TOO_LARGE = 413
MORE_NETWORKS = tuple(map(ipaddress.ip_network, (
    "168.63.129.16",  # Azure's services for a machine, public by their number alone
    "192.0.0.0/24", "fec0::/10",  # which some versions of Python take for public
)))

Resolve = Callable[[str, int], Awaitable[list[str]]]


class Fetcher:
    """Fetches from a list of hosts.

    Args:
        hosts: the names that may be asked, as they stand in addresses; none: nothing is fetched.
        most_bytes: of a recording.
        seconds: for all of a fetch: names, connections, redirects, bytes.
        resolve: name and port to IP addresses.
        public: whether an IP address may be connected to.
        tls: what is trusted; None: what the machine trusts.
    """

    def __init__(
        self, hosts: Sequence[str], most_bytes: int, seconds: float, *, resolve: Resolve | None = None,
        public: Callable[[str], bool] | None = None, tls: ssl.SSLContext | None = None,
    ):
        self.hosts, self.most_bytes, self.seconds = tuple(host.lower() for host in hosts), most_bytes, seconds
        self._resolve, self._public, self._tls = resolve or addresses_of, public or is_public, tls

    async def fetch(self, address: str, param: str) -> bytes:
        """The bytes at an address.

        Args:
            address: https, of an allowed host.
            param: the field that it stood in.

        Raises:
            ApiError: it is not allowed, cannot be reached, too large or too slow.
        """
        try:
            return await asyncio.wait_for(self._followed(address, param), self.seconds)
        except (asyncio.TimeoutError, httpx.TimeoutException) as error:
            raise _refused(
                f"{shown(address)} did not come within {self.seconds:g} s; send the recording itself as input_audio.",
                param, "audio_url_timeout",
            ) from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise _refused(
                f"{shown(address)} cannot be fetched ({_reason(error)}); check it, or send the recording itself.",
                param, "audio_url_unreachable",
            ) from error

    async def _followed(self, address: str, param: str) -> bytes:
        url = self._checked(address, param)
        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        async with httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=self.seconds) as client:
            for _ in range(MOST_REDIRECTS + 1):
                response = await self._answer(client, url, param)
                try:
                    if response.status_code not in REDIRECTS:
                        return await self._body(response, url, param)
                    url = self._checked(str(url.join(response.headers.get("location", ""))), param)
                finally:
                    await response.aclose()
        raise _refused(f"{shown(address)} leads on more than {MOST_REDIRECTS} times; give the last address.", param)

    def _checked(self, address: str, param: str) -> httpx.URL:
        """An address that may be asked.

        Raises:
            ApiError: no address, not https, another port, with a password, or of a host that is not allowed.
        """
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise _refused(f"{shown(address)} is no address; give https://host/file, or a data URL.", param) from error
        if url.scheme != "https":
            raise _refused(
                f"the address {shown(address)} begins with {shown(url.scheme)}; only https and data URLs are read.",
                param,
            )
        if url.userinfo or url.port not in (None, HTTPS_PORT):
            raise _refused(f"{shown(address)} has a user or a port; leave them out.", param)
        if url.host.lower() not in self.hosts:
            allowed = f"it fetches from {', '.join(self.hosts)} only" if self.hosts else "it fetches from no host"
            raise _refused(
                f"this server may not fetch from {shown(url.host)}; {allowed}. Send the recording as input_audio or as "
                "a data URL, or have the host allowed.", param, "audio_url_not_allowed",
            )
        return url

    async def _answer(self, client: httpx.AsyncClient, url: httpx.URL, param: str) -> httpx.Response:
        """The beginning of a host's answer, from an address of it that was checked."""
        addresses = await self._resolve(url.host, HTTPS_PORT)
        if not addresses or not all(map(self._public, addresses)):
            raise _refused(
                f"{shown(url.host)} has an address that is not a public one; recordings are fetched from public hosts.",
                param, "audio_url_not_allowed",
            )
        failed: httpx.ConnectError | None = None
        for address in addresses:
            named = {"Host": url.netloc.decode(), "Accept-Encoding": "identity"}
            request = client.build_request(
                "GET", url.copy_with(host=address), headers=named, extensions={"sni_hostname": url.raw_host.decode()}
            )
            try:
                return await client.send(request, stream=True)
            except httpx.ConnectError as error:
                failed = error
        assert failed is not None
        raise failed

    async def _body(self, response: httpx.Response, url: httpx.URL, param: str) -> bytes:
        """What the host sends, counted while it comes."""
        if response.status_code != httpx.codes.OK:
            raise _refused(
                f"{shown(str(url))} answers with status {response.status_code}; check it.", param,
                "audio_url_unreachable",
            )
        if response.headers.get("content-encoding", "identity") != "identity":  # bytes counted would not be those got
            raise _refused(f"{shown(str(url))} sends compressed bytes, though asked not to; use another host.", param)
        stated = response.headers.get("content-length", "")
        data = bytearray()
        if not (stated.isdigit() and int(stated) > self.most_bytes):
            async for piece in response.aiter_raw():
                data += piece
                if len(data) > self.most_bytes:
                    break
            else:
                return bytes(data)
        raise ApiError(
            f"{shown(str(url))} has more than {self.most_bytes} bytes, the most that are taken; send a shorter "
            "recording, or one in a format that compresses.", TOO_LARGE, param=param, code="audio_too_large",
        )


async def addresses_of(host: str, port: int) -> list[str]:
    """The IP addresses that a name has now."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet at large, and no way around to one that is not.

    Example:
        >>> [is_public(address) for address in ("93.184.215.14", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254")]
        [True, False, False, False]
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # with a scope, as link-local addresses have
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.sixtofour or ip.teredo):
        return False  # an IPv4 address in other clothes, which no public host needs
    special = ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local
    return ip.is_global and not ip.is_private and not special and not any(ip in one for one in MORE_NETWORKS)


def _refused(message: str, param: str, code: str = "invalid_audio_url") -> ApiError:
    return ApiError(message, 400, param=param, code=code)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
