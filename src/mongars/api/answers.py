"""Times and headers of responses to requests for answers or embeddings, the same in every client API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import DeadlineExceeded, GenerationInterrupted
from mongars.protocol import headers
from mongars.protocol.problems import retry_after_header, status_of

if TYPE_CHECKING:
    from mongars.conversation.chat import RouteInfo
    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.errors import MongarsError
    from mongars.core.generation import Origin

GATEWAY_TIMEOUT = 504


@dataclass(frozen=True, slots=True)
class Arrival:
    """The time at which a request arrived: `at`, in seconds of the monotonic time of `clock`."""

    clock: Clock
    at: float

    def overhead(self, route: RouteInfo) -> float:
        """Seconds that the API process itself has spent on the request: time since its arrival minus `route.waited`.

        `route.waited` is the time, in seconds, spent waiting for model servers.
        """
        return self.clock.monotonic() - self.at - route.waited


def arrival(clock: Clock) -> Arrival:
    """The `Arrival` with the present time: call it when a request arrives."""
    return Arrival(clock, clock.monotonic())


def route_headers(request_id: str, *, route: RouteInfo, overhead: float) -> dict[str, str]:
    """Response headers about how a request was answered; `route` has the facts.

    `x-llm-provider`, `x-llm-endpoint`, `x-llm-attempts` (requests sent to model servers), `x-llm-fallback` (`true` if
    a preferred provider failed, else `false`), `x-request-id` (`request_id`), and `x-llm-overhead-ms`: `overhead`, the
    seconds that the API process itself needed until the response started, in milliseconds (negative: 0).
    """
    return {
        headers.REQUEST_ID: request_id,
        headers.PROVIDER: route.provider,
        headers.ENDPOINT: route.endpoint,
        headers.ATTEMPTS: str(route.attempts),
        headers.OVERHEAD_MS: f"{max(0.0, overhead) * 1000:.1f}",
        headers.FALLBACK: "true" if route.fallback else "false",
    }


def answer_headers(
    request_id: str, *, route: RouteInfo, origin: Origin, overhead: float
) -> dict[str, str]:
    """The response headers of a generated answer: how it was answered, and its adapter, replica and cache state.

    From `route`: `x-llm-provider`, `x-llm-endpoint`, `x-llm-attempts` (requests sent), `x-llm-fallback` (`true` if a
    preferred provider failed) and `x-llm-cache`: `hit` (a stored answer), `shared` (the answer to an identical request
    in progress) or `miss` (newly generated), left out if `route.cache` is None (not cacheable). From `origin`:
    `x-adapter-version` and, unless None, `x-adapter-digest` and `x-replica-id`. Also `x-request-id`, and
    `x-llm-overhead-ms`: `overhead`, the API process's own time in seconds, as milliseconds.
    """
    found = route_headers(request_id, route=route, overhead=overhead)
    found[headers.ADAPTER_VERSION] = origin.adapter_version
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
    """Headers of an error response: request id, `Retry-After` if `error` has a time to wait, and `x-should-retry`.

    `x-should-retry: false` makes OpenAI's clients not repeat the request; every error has it except two kinds: those
    with `Retry-After`, and a timeout (504) if `chose_wait` is True, that is, if the client set that timeout itself.
    """
    found = {headers.REQUEST_ID: request_id, **retry_after_header(error)}
    if "Retry-After" not in found and not (chose_wait and status_of(error) == GATEWAY_TIMEOUT):
        # Every endpoint and provider was tried already; a retry by the client only adds load.
        found[headers.SHOULD_RETRY] = "false"
    return found


def unsent(error: MongarsError, deadline: Deadline) -> MongarsError:
    """The error to report to the client if no byte of the response was sent.

    If `deadline` has passed, `GenerationInterrupted` becomes `DeadlineExceeded`; any other error is returned unchanged.
    """
    if isinstance(error, GenerationInterrupted) and deadline.expired():
        return DeadlineExceeded(str(error))
    return error
