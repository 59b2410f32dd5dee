"""From what a request says of a recording to its bytes: base64 text, a data URL, or an address on a list.

No path of a file is ever read. What the bytes are is found out when they are decoded (`Service.recording`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from typing import Any

from soundwave.errors import shown
from soundwave.serving.entrance.fetching import TOO_LARGE, Fetcher
from soundwave.serving.errors import ApiError
from soundwave.serving.options import ServerOptions

FORMATS = ("wav", "mp3", "flac", "ogg", "opus", "m4a", "webm")
LONGEST_ADDRESS = 4096  # characters
SHOWN_OF_TEXT = 200  # characters; `shown` would write out all of a recording first
BASE64_GROUP = 3 / 4  # bytes of each character


class AudioSources:
    """Reads the audio parts of requests.

    Args:
        options: the limits, and the hosts that may be asked.
        fetcher: of addresses; None: what the options say.
    """

    def __init__(self, options: ServerOptions, fetcher: Fetcher | None = None):
        self._most_bytes = options.max_upload_bytes
        self._fetcher = fetcher or Fetcher(options.audio_url_hosts, options.max_upload_bytes, options.fetch_seconds)

    async def from_part(self, part: Mapping[str, Any], param: str = "messages") -> bytes:
        """The bytes of a recording in a part of a message.

        Args:
            part: `{"type": "input_audio", "input_audio": {"data": base64 or "data:...", "format": "wav"}}` or
                `{"type": "audio_url", "audio_url": {"url": "data:..." or "https://..."}}`.
            param: where the part stands in the request, for errors.

        Raises:
            ApiError: it is no such part, too large, not base64, or of an address that is not allowed.
        """
        kind = part.get("type")
        if kind not in ("input_audio", "audio_url"):
            told = f"a part of type {shown(kind)} holds no audio; give input_audio or audio_url."
            raise _wrong(told, f"{param}.type")
        param = f"{param}.{kind}"
        audio = part.get(kind)
        if not isinstance(audio, Mapping):
            raise _wrong(f"{kind} is {shown(audio)}; give an object.", param)
        field = "data" if kind == "input_audio" else "url"
        if kind == "input_audio":
            self._check_format(audio.get("format"), f"{param}.format")
        text, param = audio.get(field), f"{param}.{field}"
        if not isinstance(text, str):
            raise _wrong(f"{field} is {shown(text)}; give a text.", param)
        if text[:5].lower() == "data:":  # in place of base64 alone, too: some clients send it so
            return await self._decoded(_of_data_url(text, param), param)
        if kind == "input_audio":
            return await self._decoded(text, param)
        address = text
        if len(address) > LONGEST_ADDRESS:
            raise _wrong(f"the address {shown(address[:SHOWN_OF_TEXT])} has {len(address)} characters; at most "
                         f"{LONGEST_ADDRESS} are taken.", param)
        return await self._fetcher.fetch(address, param)

    async def _decoded(self, text: str, param: str) -> bytes:
        """The bytes of base64 text, in which nothing else may stand."""
        if len(text) * BASE64_GROUP > self._most_bytes + 2:  # what pads the last group
            raise ApiError(
                f"the audio has about {int(len(text) * BASE64_GROUP)} bytes; at most {self._most_bytes} are "
                "taken: send a shorter recording, or one in a format that compresses.", TOO_LARGE, param=param,
                code="audio_too_large",
            )
        try:
            data = await asyncio.to_thread(base64.b64decode, text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _wrong(
                f"the audio {shown(text[:SHOWN_OF_TEXT])} is not base64 ({error}); encode the whole file, without line "
                "breaks.", param,
            ) from error
        if not data:
            raise _wrong("the audio is empty (0 bytes); send a recording.", param)
        return data

    def _check_format(self, form: Any, param: str) -> None:
        """The format decides nothing, for the bytes say what they are; a wrong one is a mistake all the same."""
        if form is not None and form not in FORMATS:
            raise _wrong(f"format is {shown(form)}; give one of {', '.join(FORMATS)}.", param)


def _of_data_url(address: str, param: str) -> str:
    head, comma, text = address.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _wrong(f"a data URL begins like 'data:audio/wav;base64,', not like {shown(head[:SHOWN_OF_TEXT])}.", param)
    return text


def _wrong(message: str, param: str) -> ApiError:
    return ApiError(message, 400, param=param, code="invalid_audio")
