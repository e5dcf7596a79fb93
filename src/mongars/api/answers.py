"""Headers and events every answer of a model carries, whichever dialect it is given in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.responses import Response

from mongars.protocol import headers
from mongars.protocol.asgi import AnswerApp
from mongars.protocol.problems import openai_body, retry_after_header
from mongars.protocol.sse import encode_event

if TYPE_CHECKING:
    from mongars.conversation.chat import Route
    from mongars.core.errors import MongarsError
    from mongars.core.generation import Origin


class AnswerResponse(AnswerApp, Response):
    """`AnswerApp` in the shape FastAPI accepts from a handler."""


def answer_headers(request_id: str, *, route: Route, origin: Origin) -> dict[str, str]:
    """Who answered and how it was reached."""
    found = {
        headers.REQUEST_ID: request_id,
        headers.PROVIDER: route.provider,
        headers.ENDPOINT: route.endpoint,
        headers.ATTEMPTS: str(route.attempts),
        headers.FALLBACK: "true" if route.fallback else "false",
        headers.ADAPTER_VERSION: origin.adapter_version,
    }
    if route.cache is not None:
        found[headers.CACHE] = route.cache
    if origin.adapter_digest is not None:
        found[headers.ADAPTER_DIGEST] = origin.adapter_digest
    if origin.replica is not None:
        found[headers.REPLICA_ID] = origin.replica
    return found


def problem_headers(error: MongarsError, request_id: str) -> dict[str, str]:
    """Headers of an error answer; clients are told not to repeat what cannot succeed."""
    found = {headers.REQUEST_ID: request_id, **retry_after_header(error)}
    if "Retry-After" not in found:
        # We have tried every endpoint and provider already; a blind repeat only adds load.
        found[headers.SHOULD_RETRY] = "false"
    return found


def error_event(error: MongarsError) -> bytes:
    """The event that ends a cut stream; no `[DONE]` follows it."""
    return encode_event(openai_body(error), name="error")
