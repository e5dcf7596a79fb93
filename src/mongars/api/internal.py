"""Routes for the operator: showing the state of the endpoints, and draining or resetting an endpoint."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from mongars.api import schemas
from mongars.api.description import READING, reference, responses
from mongars.api.dialect import RouteTable
from mongars.api.error_formats import OWN_ERRORS
from mongars.api.requests import principal_of
from mongars.core.errors import Forbidden

if TYPE_CHECKING:
    from mongars.api.context import ApiContext
    from mongars.inference.provider import ProviderStatus


def internal_routes(context: ApiContext) -> RouteTable:
    """The routes under `/internal/endpoints`: list the Ray Serve endpoints, take one out of use, put it back into use.

    They need an administrator's API key.
    """
    handlers = InternalRoutes(context)
    router = APIRouter(prefix="/internal", tags=["operator"])
    shown = reference(schemas.ProviderList)
    for path, handler, method in (
        ("/endpoints", handlers.endpoints, "GET"),
        ("/endpoints/{endpoint_id}/drain", handlers.drain, "POST"),
        ("/endpoints/{endpoint_id}/reset", handlers.reset, "POST"),
    ):
        router.add_api_route(
            path,
            handler,
            methods=[method],
            response_model=None,
            responses=responses(shown, *READING, 403, 404, 422),
        )
    return RouteTable(
        router=router,
        prefix="/internal",
        errors=OWN_ERRORS,
        models=(schemas.Problem, schemas.ProviderList),
    )


class InternalRoutes:
    """Handlers of the routes under `/internal/endpoints`, about the Ray Serve endpoints of this API process.

    They need an administrator's API key (else 401 or 403), and respond with the state of all providers
    (`ProviderList`).
    """

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def endpoints(self, request: Request) -> Response:
        """`GET /internal/endpoints`: list every provider and, for Ray Serve, its endpoints with their state, as JSON.

        Needs an administrator's API key.
        """
        await self._check(request)
        return await self._shown()

    async def drain(self, request: Request, endpoint_id: str) -> Response:
        """`POST /internal/endpoints/{id}/drain`: send no further requests to a Ray Serve endpoint until it is reset.

        Requests in progress there continue. Needs an administrator's API key. The id is one that `GET
        /internal/endpoints` lists, such as `ray-1`; 404 for any other. Responds with all providers and their
        endpoints, as that route does. Affects this API process only.
        """
        await self._check(request)
        self._context.llm.drain(endpoint_id)
        return await self._shown()

    async def reset(self, request: Request, endpoint_id: str) -> Response:
        """`POST /internal/endpoints/{id}/reset`: use a Ray Serve endpoint again, after failures or a drain.

        Needs an administrator's API key. The id is one that `GET /internal/endpoints` lists, such as `ray-1`; 404 for
        any other. Responds with all providers and their endpoints, as that route does. Affects this API process only.
        """
        await self._check(request)
        self._context.llm.reset(endpoint_id)
        return await self._shown()

    async def _check(self, request: Request) -> None:
        principal = await principal_of(request, self._context.authenticator)
        if not principal.is_admin:
            detail = "Only an administrator's key may see or change the endpoints."
            raise Forbidden(detail)

    async def _shown(self) -> Response:
        providers = await self._context.llm.status()
        return JSONResponse({"providers": [_provider(status) for status in providers]})


def _provider(status: ProviderStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "state": status.state,
        "detail": status.detail,
        "endpoints": [dataclasses.asdict(endpoint) for endpoint in status.endpoints],
    }
