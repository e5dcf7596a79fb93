"""Building the ASGI application of the API process from its routes and middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware

from mongars.api.chat_completions import CHAT_COMPLETIONS, ChatCompletionsRoutes
from mongars.api.conversation import conversation_routes
from mongars.api.cors import with_cors
from mongars.api.error_responses import ErrorResponses
from mongars.api.fast_path import FastPath
from mongars.api.health import health_routes
from mongars.api.internal import internal_routes
from mongars.api.login import login_routes
from mongars.api.ollama_embeddings import ollama_embedding_routes
from mongars.api.ollama_routes import ollama_routes
from mongars.api.openai_embeddings import embedding_routes
from mongars.api.request_ids import RequestIds
from mongars.api.text_completions import completions_routes
from mongars.protocol.head import HeadAsGet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.types import ASGIApp

    from mongars.api.context import ApiContext
    from mongars.api.dialect import RouteTable

ROUTES: tuple[Callable[[ApiContext], RouteTable], ...] = (
    completions_routes,
    embedding_routes,
    conversation_routes,
    ollama_routes,
    ollama_embedding_routes,
    login_routes,
    internal_routes,
)
"""Functions that make the route tables, except those of OpenAI's chat API and of health, which `build_app` adds."""


def build_app(
    context: ApiContext,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Any]],
    *,
    more: Sequence[Callable[[ApiContext], RouteTable]] = (),
) -> ASGIApp:
    """The ASGI application with all routes of the API, whose handlers use the objects in `context`.

    `lifespan` returns a context manager that is open while the application runs; it opens and closes these objects.
    `more` are functions that make further route tables, such as those of another client API.
    """
    app = FastAPI(
        title="monGARS",
        version=context.config.version,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,  # the redirect would repeat the Host header
        docs_url=None,  # both pages load scripts from a CDN
        redoc_url=None,
        openapi_url=None,  # served by `health_routes`, and only with a key
    )
    openai = ChatCompletionsRoutes(context)
    tables = [openai.table(), *(routes(context) for routes in (*ROUTES, *more))]
    tables.append(health_routes(context, tables))
    errors = ErrorResponses(tables)
    errors.install(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestIds)
    for table in tables:
        app.include_router(table.router)
    fast_path = FastPath(
        app,
        path=CHAT_COMPLETIONS,
        endpoint=openai.chat_completions,
        on_error=errors.expected,
    )
    around = ServerErrorMiddleware(fast_path, handler=errors.unexpected)
    return with_cors(around, context.config.cors_origins)
