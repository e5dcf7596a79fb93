"""Headers and events every answer of a model carries, whichever dialect it is given in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi.responses import Response

from mongars.core.errors import DeadlineExceeded, GenerationInterrupted
from mongars.protocol import headers
from mongars.protocol.asgi import AnswerApp
from mongars.protocol.problems import openai_body, retry_after_header, status_of
from mongars.protocol.sse import encode_event

if TYPE_CHECKING:
    from mongars.conversation.chat import Route
    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.errors import MongarsError
    from mongars.core.generation import Origin


GATEWAY_TIMEOUT = 504


class AnswerResponse(AnswerApp, Response):
    """`AnswerApp` in the shape FastAPI accepts from a handler."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a request came in."""

    clock: Clock
    at: float

    def overhead(self, route: Route) -> float:
        """Seconds since then, without those in which whoever had been asked was waited for."""
        return self.clock.monotonic() - self.at - route.waited


def arrival(clock: Clock) -> Arrival:
    """Now."""
    return Arrival(clock, clock.monotonic())


def answer_headers(
    request_id: str, *, route: Route, origin: Origin, overhead: float
) -> dict[str, str]:
    """Who answered and how it was reached; `overhead` are our own seconds until it began."""
    found = {
        headers.REQUEST_ID: request_id,
        headers.PROVIDER: route.provider,
        headers.ENDPOINT: route.endpoint,
        headers.ATTEMPTS: str(route.attempts),
        headers.OVERHEAD_MS: f"{max(0.0, overhead) * 1000:.1f}",
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


def problem_headers(
    error: MongarsError, request_id: str, *, chose_wait: bool = False
) -> dict[str, str]:
    """Headers of an error answer; `x-should-retry: false` where a repeat cannot succeed.

    `chose_wait`: the client set the time that was up. Whether to wait once more is its own choice.
    """
    found = {headers.REQUEST_ID: request_id, **retry_after_header(error)}
    if "Retry-After" not in found and not (chose_wait and status_of(error) == GATEWAY_TIMEOUT):
        # We have tried every endpoint and provider already; a blind repeat only adds load.
        found[headers.SHOULD_RETRY] = "false"
    return found


def unsent(error: MongarsError, deadline: Deadline) -> MongarsError:
    """The error of an answer of which nothing was sent: cut by the deadline, it is late, not broken."""
    if isinstance(error, GenerationInterrupted) and deadline.expired():
        return DeadlineExceeded(str(error))
    return error


def error_event(error: MongarsError) -> bytes:
    """The event that ends a cut stream; no `[DONE]` follows it."""
    return encode_event(openai_body(error), name="error")
