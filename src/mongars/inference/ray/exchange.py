"""The exchange port: one request to a Ray endpoint and its result, of whatever kind.

`RayClient` and `RayCall` choose endpoints, retry, hedge and count; they know exchanges, not what is
exchanged. A kind of exchange is one class: `GenerationExchange` sends a prompt and starts a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mongars.core.deadline import Deadline
    from mongars.inference.provider import StreamState


class StartedResult(Protocol):
    """A result that has started to arrive; read again when the attempt is left, to see how it ended."""

    @property
    def state(self) -> StreamState:
        """`open` while more is to come; `complete` counts as success, `cut` as failure."""
        ...

    @property
    def stalled(self) -> bool:
        """Whether it was cut because nothing arrived for too long."""
        ...

    @property
    def adapter_version(self) -> str | None:
        """The adapter that the endpoint reports; None if it reports none."""
        ...


ResultT = TypeVar("ResultT", bound=StartedResult)
ResultT_co = TypeVar("ResultT_co", bound=StartedResult, covariant=True)


class EndpointExchange(Protocol[ResultT_co]):
    """One request that can be sent to any endpoint, more than once. The attributes do not change."""

    request_id: str
    task_type: str
    scope: str | None
    """The account whose share of the slots it uses."""
    session_id: str | None
    """Requests of one session prefer one endpoint; None if it makes no difference."""
    start_seconds: float
    """How long an endpoint may take to start the result."""
    is_retry: bool
    """Whether even its first attempt is a retry of something, to be paid from the retry budget."""
    may_hedge: bool
    """Whether it may be sent to two endpoints at once if the first is slow."""
    is_latency_sample: bool
    """Whether its time to start is compared with that of other requests, to choose endpoints and to
    decide when to hedge."""

    def target(self, endpoint: str) -> str:
        """The URL to send it to, at the endpoint with this URL."""
        ...

    def send(self, url: str, start_by: Deadline) -> AbstractAsyncContextManager[ResultT_co]:
        """Send it once; entered when the result has started, before `start_by`.

        Entering raises `AttemptError`, or a `CallerError` if the endpoint finds the request wrong.
        Leaving closes the connection, unless the result is complete.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointResult(Generic[ResultT]):
    """A started result and the endpoint that gives it, as host and path."""

    endpoint: str
    result: ResultT
