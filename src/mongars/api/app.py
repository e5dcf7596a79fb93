"""The API process as an ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware

from mongars.api.conversation import conversation_routes
from mongars.api.cors import with_cors
from mongars.api.health import health_routes
from mongars.api.internal import internal_routes
from mongars.api.login import login_routes
from mongars.api.openai import CHAT_COMPLETIONS, OpenAIDoor, openai_routes
from mongars.api.problems import install_problem_handlers, unexpected
from mongars.api.request_ids import RequestIds
from mongars.api.shortcut import Shortcut
from mongars.protocol.head import HeadAsGet

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from starlette.types import ASGIApp

    from mongars.api.context import ApiContext


def build_app(
    context: ApiContext, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Any]]
) -> ASGIApp:
    """All routes over one context; `lifespan` opens and closes the parts behind it."""
    app = FastAPI(
        title="monGARS",
        version=context.config.version,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,  # the redirect would repeat the Host header
        docs_url=None,  # both pages load scripts from a CDN
        redoc_url=None,
        openapi_url=None,  # served by `health_routes`, to those with a key
    )
    install_problem_handlers(app)
    openai = OpenAIDoor(context)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestIds)
    app.include_router(openai_routes(openai))
    for routes in (
        conversation_routes,
        login_routes,
        health_routes,
        internal_routes,
    ):
        app.include_router(routes(context))
    short = Shortcut(app, path=CHAT_COMPLETIONS, endpoint=openai.chat_completions)
    return with_cors(ServerErrorMiddleware(short, handler=unexpected), context.config.cors_origins)
