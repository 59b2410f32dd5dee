"""What whoever starts the demo may choose."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from soundwave.errors import ConfigurationError
from soundwave.settings import check_settings, setting


@dataclass(frozen=True)
class DemoOptions:
    """Where the page is served, and what a visitor may give.

    Raises:
        ConfigurationError: a value out of range, or an address that others reach without `insecure`.
    """

    host: str = setting("127.0.0.1", help="The address to listen at; one that others reach needs --insecure.")
    port: int = setting(7860, least=1, most=65535, help="The port to listen at.")
    insecure: bool = setting(
        False, help="Listen where others reach it: the page asks for no key, so anybody there can use the model."
    )
    max_seconds: float = setting(600.0, least=1, help="The longest recording, in seconds.")
    max_megabytes: int = setting(100, least=1, help="The largest file, in megabytes.")
    live_at_once: int = setting(4, least=1, help="Most visitors who record at the same time.")
    keep_minutes: float = setting(
        60.0, least=1, help="How long what a visitor gave is kept after its last use; less, once the page is closed."
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.insecure and not is_loopback(self.host):
            raise ConfigurationError(
                f"host is {self.host!r}, where others may reach the demo, and it asks for no key; give 127.0.0.1, or "
                "allow everybody with --insecure."
            )


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name, which may be any machine's
        return False
