"""Calls from web pages of other origins (the Fetch standard's CORS protocol)."""

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
    """The application, open to pages of these origins; without any it stays as it is.

    It stands around everything, so that preflights need no key and every error can be read by the
    page. Keys are sent in a header, so cookies and other credentials of the browser are not allowed.
    """
    if not origins:
        return app
    around = CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],  # those a preflight names: OpenAI's client sends a dozen of its own
        allow_credentials=False,
        expose_headers=EXPOSED,
        max_age=PREFLIGHT_SECONDS,
    )
    return RequestIds(around)  # preflights have one, too
