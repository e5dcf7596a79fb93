"""Authenticate requests to a replica, and read their bodies."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from mongars.core.errors import InvalidRequest, NotAuthenticated
from mongars.protocol.body import parse_model, read_limited

if TYPE_CHECKING:
    from fastapi import Request

Model = TypeVar("Model", bound=BaseModel)


def check_token(request: Request, wanted: str | None) -> None:
    """Check that a request has a bearer token whose SHA-256, in hexadecimal digits, is `wanted`.

    `wanted` None: no token is required. Raises `NotAuthenticated` if the token is missing or wrong.
    """
    if wanted is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = hashlib.sha256(token.strip().encode()).hexdigest()
    if scheme.lower() != "bearer" or not hmac.compare_digest(given, wanted):
        detail = "Send the token of this application: Authorization: Bearer <RAY_SERVE_TOKEN>."
        raise NotAuthenticated(detail)


async def read_body(request: Request, model: type[Model], *, limit: int) -> Model:
    """Read a request's JSON body of at most `limit` bytes, and convert it to the pydantic class `model`.

    Raises `TooLarge` for a longer body, `EncodingUnsupported` for a compressed one, `InvalidRequest` if it is no valid
    JSON, does not fit the class, does not arrive within 10 seconds, or the client disconnects before its end.
    """
    try:
        body = await read_limited(
            request.stream(),
            declared=request.headers.get("content-length"),
            encoding=request.headers.get("content-encoding"),
            limit=limit,
        )
    except ClientDisconnect as exc:
        detail = "The connection was closed before the request was complete."
        raise InvalidRequest(detail) from exc
    return parse_model(body, model)
