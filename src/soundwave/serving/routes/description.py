"""The OpenAPI document: what FastAPI finds in the routes, and what it cannot know."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from soundwave.serving.routes.answers import ErrorAnswer

VERSION = "1"  # of the dialect
_TOLD = {
    400: "The request is wrong; the error names the field.",
    401: "The API key is missing or wrong.",
    403: "The web page or host is not allowed.",
    404: "There is no such address or model.",
    405: "The address does not take this method.",
    408: "The body came too slowly, or the request ran too long.",
    413: "The body or a recording in it is too large.",
    415: "The body is of another kind.",
    429: "Too much is asked at the moment; Retry-After says when to come again.",
    503: "The server is stopping, or not ready.",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": told} for status, told in _TOLD.items()
}


def describe(app: FastAPI) -> None:
    """Lets an application describe itself with its keys, and without the errors that FastAPI would give."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes,
            )
            _without_422(made)
            schemes = made.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["key"] = {"type": "http", "scheme": "bearer", "description": "Where the server has API keys."}
            made["security"] = [{"key": []}, {}]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to do it


def _without_422(document: dict[str, Any]) -> None:
    """What pydantic refuses is a 400 here, in OpenAI's shape."""
    for address in document["paths"].values():
        for operation in address.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
