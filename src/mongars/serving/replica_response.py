"""Answers that a coroutine writes, in the shape FastAPI accepts from a handler."""

from __future__ import annotations

from fastapi.responses import Response

from mongars.protocol.asgi import WrittenResponse


class ReplicaResponse(WrittenResponse, Response):
    """`WrittenResponse` as a response."""
