"""The route `POST /token`, which exchanges a username and a password for a login token."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from mongars.api import schemas
from mongars.api.description import BODY, FORM, OPEN, READING, body, reference, responses
from mongars.api.dialect import RouteTable
from mongars.api.error_formats import OWN_ERRORS
from mongars.api.requests import read_body
from mongars.core.errors import InvalidRequest

if TYPE_CHECKING:
    from mongars.api.context import ApiContext

FORM_LIMIT = 10_000
EXAMPLE = {"username": "alice", "password": "correct horse battery staple"}


def login_routes(context: ApiContext) -> RouteTable:
    """The route table of `POST /token`, which issues login tokens."""
    handlers = LoginRoutes(context)
    router = APIRouter(tags=["accounts"])
    router.add_api_route(
        "/token",
        handlers.token,
        methods=["POST"],
        response_model=None,
        openapi_extra={**body(schemas.LoginForm, EXAMPLE, media_type=FORM), **OPEN},
        responses=responses(reference(schemas.LoginToken), *READING, *BODY, 422, 429),
    )
    return RouteTable(
        router=router,
        prefix="/token",
        errors=OWN_ERRORS,
        models=(schemas.LoginForm, schemas.LoginToken, schemas.Problem),
    )


class LoginRoutes:
    """The handler of `POST /token`."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def token(self, request: Request) -> Response:
        """Exchange the form fields `username` and `password` (OAuth 2 password grant) for a login token.

        Responds with `{"access_token": …, "token_type": "bearer"}`. The status is 422 without these fields, 401 for a
        wrong name or password, and 429 after too many attempts.
        """
        raw = await read_body(request, limit=FORM_LIMIT)
        form = parse_qs(raw.decode("utf-8", "replace"), keep_blank_values=True)
        username, password = form.get("username", [""])[0], form.get("password", [""])[0]
        if not username or not password:
            detail = "Send the form fields username and password (form-urlencoded)."
            raise InvalidRequest(detail)
        token = await self._context.authenticator.login(
            username, password, address=request.client.host if request.client else ""
        )
        return JSONResponse({"access_token": token, "token_type": "bearer"})
