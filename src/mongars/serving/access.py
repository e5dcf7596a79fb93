"""Authentication of requests to a replica, and reading their bodies."""

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
    """Raise `NotAuthenticated` unless the SHA-256 of the request's bearer token is `wanted`; None: no token is required."""
    if wanted is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = hashlib.sha256(token.strip().encode()).hexdigest()
    if scheme.lower() != "bearer" or not hmac.compare_digest(given, wanted):
        detail = "Send the token of this application: Authorization: Bearer <RAY_SERVE_TOKEN>."
        raise NotAuthenticated(detail)


async def read_body(request: Request, model: type[Model], *, limit: int) -> Model:
    """Read and validate the body as a model, at most `limit` bytes. Raises as `protocol.body` does."""
    body = await read_limited(
        request.stream(),
        declared=request.headers.get("content-length"),
        encoding=request.headers.get("content-encoding"),
        limit=limit,
    )
    return parse_model(body, model)
