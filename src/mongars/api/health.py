"""The routes `/healthz` (also `/health`), `/readyz` (also `/ready`), `/metrics` and `/openapi.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from mongars.api import schemas
from mongars.api.description import OPEN, READING, openapi_of, problem, reference, responses
from mongars.api.dialect import RouteTable
from mongars.api.error_formats import OWN_ERRORS
from mongars.api.requests import principal_of
from mongars.core.errors import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from mongars.api.context import ApiContext


def health_routes(context: ApiContext, described: Sequence[RouteTable] = ()) -> RouteTable:
    """The route table of `/healthz`, `/readyz`, `/metrics` and `/openapi.json` (the OpenAPI description).

    `/metrics` and `/openapi.json` need an API key or a login token. `described` are the other route tables, which
    `/openapi.json` describes.
    """
    own = (schemas.Health, schemas.Problem, schemas.Readiness)
    models = [model for table in described for model in table.models]
    handlers = HealthRoutes(context, models=tuple(dict.fromkeys([*own, *models])))
    router = APIRouter(tags=["health"])
    router.add_api_route(
        "/healthz",
        handlers.health,
        methods=["GET"],
        response_model=None,
        openapi_extra=OPEN,
        responses=responses(reference(schemas.Health)),
    )
    router.add_api_route("/health", handlers.health, methods=["GET"], include_in_schema=False)
    router.add_api_route(
        "/readyz",
        handlers.ready,
        methods=["GET"],
        response_model=None,
        openapi_extra=OPEN,
        responses={
            **responses(reference(schemas.Readiness)),
            503: problem(503, schemas.Readiness),
        },
    )
    router.add_api_route("/ready", handlers.ready, methods=["GET"], include_in_schema=False)
    router.add_api_route(
        "/openapi.json", handlers.openapi, methods=["GET"], include_in_schema=False
    )
    router.add_api_route(
        "/metrics",
        handlers.metrics,
        methods=["GET"],
        response_model=None,
        response_class=PlainTextResponse,
        responses={status: problem(status) for status in READING},
    )
    return RouteTable(router=router, prefix="/health", errors=OWN_ERRORS, models=own)


class HealthRoutes:
    """Handlers that report the state of the process and of the components it needs."""

    def __init__(self, context: ApiContext, *, models: tuple[type[BaseModel], ...]) -> None:
        self._context = context
        self._models = models

    async def health(self) -> dict[str, str]:
        """200 while the process answers requests: `{"status": "ok", "version": …}`.

        The state of the database and the providers is not checked.
        """
        return {"status": "ok", "version": self._context.config.version}

    async def ready(self) -> Response:
        """Report whether a chat request sent now would be answered and stored (`status`), and each component's state.

        `ready`: the first provider would answer. `degraded`: it would not, but a fallback, or the first provider again
        after the `Retry-After` it returned. `unavailable` (503): no provider or no database. The components are in
        `parts`, by name, each with `state` and `detail`.
        """
        database = await self._database()
        providers = {status.name: status for status in await self._context.llm.status()}
        states = {name: status.state for name, status in providers.items()}
        first = next(iter(states.values()), "down")
        status = "ready" if first in {"up", "unknown"} else "degraded"
        if database["state"] != "up" or all(state in {"down", "off"} for state in states.values()):
            status = "unavailable"
        parts: dict[str, Any] = {"database": database}
        for name, provider in providers.items():
            parts[name] = {"state": provider.state, "detail": provider.detail}
        if self._context.config.no_fallback:
            parts["embedded"] = {"state": "off", "detail": self._context.config.no_fallback}
        code = 503 if status == "unavailable" else 200
        return JSONResponse({"status": status, "parts": parts}, status_code=code)

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI description of this API, as JSON. Needs an API key or a login token."""
        await principal_of(request, self._context.authenticator)
        return JSONResponse(openapi_of(request.app, self._models))

    async def metrics(self, request: Request) -> Response:
        """Report all metrics in Prometheus' text format. Needs an API key or a login token."""
        await principal_of(request, self._context.authenticator)
        content_type, page = self._context.metrics.render()
        return Response(page, media_type=content_type)

    async def _database(self) -> dict[str, str]:
        try:
            await self._context.database.healthy()
        except StorageUnavailable as error:
            return {"state": "down", "detail": str(error)}
        return {"state": "up", "detail": ""}
