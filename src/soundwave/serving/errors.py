"""Every error of the server in OpenAI's shape, in one place: whatever is wrong becomes an `ApiError` here.

Nothing that a client can send gives a 500. One means a bug of ours; the log says more under the request's id.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from soundwave.errors import AudioError, AudioTooLongError, ConfigurationError, SoundwaveError
from soundwave.serving.fields.validation import said_of

INVALID = "invalid_request_error"
TYPES = {
    401: "authentication_error", 403: "permission_error", 408: "timeout_error", 429: "rate_limit_error",
    499: "client_closed_request", 500: "server_error", 503: "overloaded_error",
}
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ApiError(SoundwaveError):
    """A request that cannot be answered.

    Args:
        message: what was wrong, the value given, what is allowed, what to do.
        status: of the HTTP answer.
        type: OpenAI's word for the kind of error; default: that of the status.
        param: the field of the request that is wrong, as `messages[0].content`.
        code: a word for programs.
        headers: more headers of the answer, such as Retry-After.
    """

    def __init__(
        self, message: str, status: int = 400, *, type: str | None = None, param: str | None = None,
        code: str | None = None, headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.type = type or TYPES.get(status, INVALID)
        self.headers = dict(headers or {})

    @property
    def message(self) -> str:
        """One line; what a client sent that is no Unicode stands escaped in it."""
        return str(self).encode("utf-8", "backslashreplace").decode("utf-8")


def busy(message: str, seconds: int = 1, status: int = 429, code: str = "busy") -> ApiError:
    """A request that is refused for now; `seconds` is when to come again."""
    return ApiError(message, status, code=code, headers={"Retry-After": str(seconds)})


def error_body(error: ApiError) -> dict[str, Any]:
    """OpenAI's error object, as every answer, event and WebSocket message carries it."""
    param = None if error.param is None else error.param.encode("utf-8", "backslashreplace").decode("utf-8")
    return {"error": {"message": error.message, "type": error.type, "param": param, "code": error.code}}


def api_error(error: BaseException, param: str | None = None) -> ApiError:
    """What a client is told about an error.

    Args:
        error: of any kind; what is none of a client's doing becomes a 500 that says nothing about our inside.
        param: the field whose value was being used.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AudioTooLongError):
        return ApiError(str(error), 413, param=param, code="audio_too_long")
    if isinstance(error, AudioError):
        return ApiError(str(error), 400, param=param, code="invalid_audio")
    if isinstance(error, ConfigurationError):
        return ApiError(str(error), 400, param=param, code="invalid_value")
    if isinstance(error, RequestValidationError):
        return ApiError(**said_of(error))
    if isinstance(error, HTTPException):
        return _of_framework(error)
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return busy("The server's disk is full; come again later.", 30, 503, "disk_full")
    return ApiError("The server made a mistake; its log says more under this request id.", 500, code="internal_error")


def _of_framework(error: HTTPException) -> ApiError:
    """What FastAPI and Starlette refuse: unknown paths and methods, bodies that cannot be read."""
    if isinstance(error.__cause__, ApiError):  # FastAPI hides what went wrong while a body was read
        return error.__cause__
    if isinstance(error.__cause__, OSError):
        return api_error(error.__cause__)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return ApiError("There is nothing at this address; GET /openapi.json lists what there is.", 404,
                        code="not_found")
    if error.status_code == 405:
        allowed = headers.get("Allow", headers.get("allow", "another one"))
        return ApiError(f"This address does not take that method; use {allowed}.", 405, code="method_not_allowed",
                        headers=headers)
    return ApiError(f"The request cannot be read: {error.detail}.", error.status_code, code="unreadable_request",
                    headers=headers)


def response_of(error: ApiError) -> Response:
    """The answer to a request that cannot be answered."""
    headers = dict(error.headers)
    if error.status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    if error.status == 408:
        headers.setdefault("x-should-retry", "false")  # OpenAI's clients would send the same again
    return JSONResponse(error_body(error), error.status, headers)


def install(app: FastAPI) -> None:
    """Registers what turns errors into answers; those that nobody foresaw are `guard.Guard`'s."""

    async def handle(request: Request, error: Exception) -> Response:
        return response_of(api_error(error))

    for kind in (SoundwaveError, RequestValidationError, HTTPException, OSError):
        app.add_exception_handler(kind, handle)
