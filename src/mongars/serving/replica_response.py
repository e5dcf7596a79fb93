"""An HTTP response of a replica whose status, headers and body a coroutine sends."""

from __future__ import annotations

from fastapi.responses import Response

from mongars.protocol.asgi import WrittenResponse


class ReplicaResponse(WrittenResponse, Response):
    """A `WrittenResponse` that FastAPI accepts as the return value of a route handler."""
