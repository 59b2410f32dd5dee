"""What is served, and how it is: models, health, readiness, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from soundwave.serving.routes.answers import Model, ModelList, State
from soundwave.serving.service import Service, stopping


def router(service: Service) -> APIRouter:
    """The addresses that change nothing."""
    made = APIRouter(tags=["status"])

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": service.started, "owned_by": "soundwave"}

    @made.get("/v1/models", response_model=ModelList)
    async def models() -> dict[str, Any]:
        """The model, by all the names that a request may call it."""
        return {"object": "list", "data": [model(name) for name in service.names]}

    @made.get("/v1/models/{name:path}", response_model=Model)
    async def one_model(name: str) -> dict[str, Any]:
        """One name of the model."""
        service.check_model(name)
        return model(name)

    @made.get("/health", response_model=State)
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @made.get("/ready", response_model=State)
    async def ready() -> Response:
        """The model has computed once, and the server is not about to stop."""
        if service.draining:
            raise stopping()
        return JSONResponse({"status": "ready" if service.ready else "warming"}, 200 if service.ready else 503)

    @made.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters, as Prometheus reads them."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return made
