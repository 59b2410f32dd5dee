"""API keys: where they come from, and whether a request brings one of them."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from soundwave.errors import ConfigurationError
from soundwave.serving.options import ServerOptions

VARIABLE = "SOUNDWAVE_API_KEYS"
SHORTEST = 16  # characters; shorter ones are guessed
WEBSOCKET_PREFIX = "openai-insecure-api-key."  # how OpenAI's clients in browsers send a key: as a subprotocol


class Keys:
    """The keys that are allowed; without any, everybody is.

    Args:
        keys: of at least `SHORTEST` printable ASCII characters.

    Raises:
        ConfigurationError: a key that nobody could send, or that is too short.
    """

    def __init__(self, keys: tuple[str, ...] = ()):
        for number, key in enumerate(keys, 1):
            if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigurationError(
                    f"API key {number} has {len(key)} characters, or some that cannot be sent; give at least "
                    f"{SHORTEST} letters, digits and signs, such as `openssl rand -hex 24` makes."
                )
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def client_of(self, key: str | None) -> str | None:
        """Who sends a key, as a short name that does not tell it; None: nobody who may.

        Every key is compared, in a time that does not depend on what is sent.
        """
        digest = hashlib.sha256((key or "").encode("utf-8", "replace")).digest()
        known = [hmac.compare_digest(digest, one) for one in self._digests]
        return f"key-{known.index(True) + 1}" if any(known) else None


def read_keys(options: ServerOptions) -> Keys:
    """The keys of the options' file and of the environment.

    Raises:
        ConfigurationError: the file cannot be read, a key is none, or the server would be open to others without any.
    """
    lines = os.environ.get(VARIABLE, "").split(",")
    if options.api_keys_file is not None:
        try:
            lines += Path(options.api_keys_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"api_keys_file {options.api_keys_file!r} cannot be read ({error}); give a text with a key a line."
            ) from error
    keys = Keys(tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#")))
    if not keys and options.api_keys_file is not None:
        raise ConfigurationError(f"api_keys_file {options.api_keys_file!r} has no key; write one on each line.")
    check_exposure(options, keys)
    return keys


def check_exposure(options: ServerOptions, keys: Keys) -> None:
    """Refuses to be open to others without keys.

    Raises:
        ConfigurationError: the address is not this computer's own, there is no key, and `insecure` is not set.
    """
    if not (keys or options.is_loopback or options.insecure):
        raise ConfigurationError(
            f"host is {options.host!r}, which others may reach, and there are no API keys; set {VARIABLE} or give "
            "--api-keys-file, listen at 127.0.0.1, or say --insecure if whoever reaches it may use it."
        )


def sent_key(headers: Mapping[str, str]) -> str | None:
    """The key that a request brings: `Authorization: Bearer KEY`, or a WebSocket's subprotocol."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    protocols = [one.strip() for one in headers.get("sec-websocket-protocol", "").split(",")]
    return next((one[len(WEBSOCKET_PREFIX) :] for one in protocols if one.startswith(WEBSOCKET_PREFIX)), None)
