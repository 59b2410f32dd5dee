"""The application: an engine's addresses, guarded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from soundwave.serving import errors
from soundwave.serving.entrance.guard import Guard
from soundwave.serving.entrance.keys import Keys
from soundwave.serving.options import ServerOptions
from soundwave.serving.routes import chat, realtime, status, transcriptions
from soundwave.serving.routes.description import REFUSALS, VERSION, describe
from soundwave.serving.service import Service

if TYPE_CHECKING:
    from soundwave.inference.engine import Engine


def create_app(engine: Engine, options: ServerOptions | None = None, keys: Keys | None = None) -> FastAPI:
    """An ASGI application over one engine.

    Args:
        engine: loaded.
        options: its bounds.
        keys: who may come in; none: everybody who reaches it.

    Raises:
        ConfigurationError: it would be open to others without keys.
    """
    service = Service(engine, options or ServerOptions(), keys)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.warm()
        yield
        service.close()

    app = FastAPI(
        title="Soundwave", description="A speech LLM in the dialect of OpenAI's API.", version=VERSION,
        docs_url=None, redoc_url=None,  # those pages load scripts from elsewhere
        redirect_slashes=False, lifespan=lifespan, responses=REFUSALS,
    )
    app.state.service = service
    for module in (chat, transcriptions, realtime, status):
        app.include_router(module.router(service))
    errors.install(app)
    describe(app)
    app.add_middleware(Guard, service=service)
    if service.options.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(service.options.allowed_origins), allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["x-request-id"],
        )
    return app
