"""Requests from web pages of other origins (CORS, the Fetch standard)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

from mongars.api.request_ids import RequestIds
from mongars.protocol.headers import EXPOSED

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp

PREFLIGHT_SECONDS = 600


def with_cors(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """`app` with a CORS middleware that lets web pages of `origins` call it; `app` itself if `origins` is empty.

    An origin is written as `https://example.org` and compared exactly. The middleware is the outermost one, so
    preflight requests need no API key and pages can read every error. The pages send the API key in a header; cookies
    are not allowed.
    """
    if not origins:
        return app
    around = CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],  # all that a preflight request names; OpenAI's client sends a dozen
        allow_credentials=False,
        expose_headers=EXPOSED,
        max_age=PREFLIGHT_SECONDS,
    )
    return RequestIds(around)  # adds `x-request-id` to responses to preflight requests
