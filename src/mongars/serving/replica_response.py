"""A response of a replica that a coroutine writes."""

from __future__ import annotations

from fastapi.responses import Response

from mongars.protocol.asgi import WrittenResponse


class ReplicaResponse(WrittenResponse, Response):
    """`WrittenResponse` as FastAPI accepts it from a handler."""
