"""Authenticate requests to a replica, and read their bodies."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from mongars.core.errors import NotAuthenticated
from mongars.protocol.body import parse_model, read_limited

if TYPE_CHECKING:
    from fastapi import Request

Model = TypeVar("Model", bound=BaseModel)


def check_token(request: Request, wanted: str | None) -> None:
    """Check the bearer token of a request against its SHA-256 `wanted`; None: no token is required.

    Raises `NotAuthenticated` if the token is missing or wrong.
    """
    if wanted is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = hashlib.sha256(token.strip().encode()).hexdigest()
    if scheme.lower() != "bearer" or not hmac.compare_digest(given, wanted):
        detail = "Send the token of this application: Authorization: Bearer <RAY_SERVE_TOKEN>."
        raise NotAuthenticated(detail)


async def read_body(request: Request, model: type[Model], *, limit: int) -> Model:
    """Read the request's body, at most `limit` bytes, and validate it as a `model`.

    Raises `TooLarge` for a longer body, `EncodingUnsupported` for a compressed one, `InvalidRequest` if it is no
    valid JSON of that model.
    """
    body = await read_limited(
        request.stream(),
        declared=request.headers.get("content-length"),
        encoding=request.headers.get("content-encoding"),
        limit=limit,
    )
    return parse_model(body, model)
