"""An HTTP response of a replica whose status, headers and body a coroutine sends."""

from __future__ import annotations

from fastapi.responses import Response

from mongars.protocol.asgi import WrittenResponse


class ReplicaResponse(WrittenResponse, Response):
    """A `WrittenResponse` (an HTTP response of this project) that FastAPI accepts as a route handler's return value.

    Its argument is the coroutine function that writes the response, given a `ResponseWriter`.
    """
