"""What whoever starts a server may choose, each option declared once; the command line's flags come from here.

API keys are no option: they would be seen in the list of processes. They come from a file or the environment.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from soundwave.errors import ConfigurationError
from soundwave.settings import check_settings, setting

MEGABYTE = 2**20


@dataclass(frozen=True)
class ServerOptions:
    """Where a server listens, and what bounds it.

    Raises:
        ConfigurationError: a value out of range.
    """

    host: str = setting("127.0.0.1", help="The address to listen at; others than this computer's own need API keys.")
    port: int = setting(8000, least=0, most=65535, help="The port to listen at; 0: any that is free.")
    served_as: tuple[str, ...] = setting(
        (), help="More names that a request may call the model by, such as whisper-1, for clients that insist."
    )
    api_keys_file: str | None = setting(
        None, help="A file with an API key on each line; more may stand in SOUNDWAVE_API_KEYS, with commas between."
    )
    insecure: bool = setting(False, help="Listen at any address without API keys: whoever reaches it may use it.")
    allowed_origins: tuple[str, ...] = setting(
        (), help="Web pages that may call the server from a browser, such as https://example.org; default: none."
    )
    audio_url_hosts: tuple[str, ...] = setting(
        (), help="Hosts from which recordings are fetched for audio_url, by https only; default: none."
    )
    max_upload_mb: int = setting(25, least=1, most=4096, help="The largest body of a request, in megabytes.")
    max_held_mb: int = setting(
        512, least=1, help="The bodies of all requests together, in megabytes; what comes on top waits outside."
    )
    max_audio_seconds: float = setting(
        600.0, above=0, help="The longest recording, in seconds; it is stopped while it is decoded."
    )
    max_answer_tokens: int = setting(4096, least=1, help="The longest answer that a request may ask for, in tokens.")
    max_running: int = setting(4, least=1, most=1024, help="Requests that are computed at the same time.")
    max_queue: int = setting(128, least=0, help="Requests that may wait for that; more are told to come again (429).")
    max_open: int = setting(512, least=1, help="Requests that are received, wait or run; more are told to come again.")
    max_live: int = setting(16, least=0, help="Live sessions at the same time.")
    live_seconds: float = setting(7200.0, above=0, help="The longest live session, in seconds.")
    live_idle_seconds: float = setting(
        30.0, above=0, help="A live session ends when hardly any sound comes for so long, in seconds."
    )
    request_seconds: float = setting(300.0, above=0, help="The longest that a request may run, in seconds.")
    upload_seconds: float = setting(
        20.0, above=0, help="A body must be there after this many seconds, and one more for each 16 kB of it."
    )
    fetch_seconds: float = setting(10.0, above=0, help="The longest that fetching an audio_url may take, in seconds.")
    graceful_seconds: float = setting(
        30.0, least=0, help="How long requests that run may take to end when the server is stopped, in seconds."
    )
    log_text: bool = setting(False, help="Write what was asked and answered into the log, too.")

    def __post_init__(self) -> None:
        check_settings(self)
        for origin in self.allowed_origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise ConfigurationError(
                    f"allowed_origins has {origin!r}; give the beginning of an address, such as https://example.org."
                )

    @property
    def max_upload_bytes(self) -> int:
        """The largest body of a request."""
        return self.max_upload_mb * MEGABYTE

    @property
    def is_loopback(self) -> bool:
        """Whether only this computer reaches the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
