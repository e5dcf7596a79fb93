"""The interface of exchanges: one request to a Ray endpoint together with its result, of any kind.

`RayClient` and `RayCall` choose endpoints, retry, hedge and record outcomes for every kind of exchange.
Each kind is one class: for example, `GenerationExchange` sends a prompt and starts a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mongars.core.deadline import Deadline
    from mongars.inference.provider import StreamState


class StartedResult(Protocol):
    """A result of an endpoint: an answer of which the first content has arrived, or all vectors of a request.

    `state`, `stalled` and `adapter_version` are read again when it ends, to record success or failure of the endpoint.
    """

    @property
    def state(self) -> StreamState:
        """`open` while more data may come; at the end `complete` (success), or `cut` if the stream broke (failure)."""
        ...

    @property
    def stalled(self) -> bool:
        """Whether the result was cut because no chunk arrived for `InferenceConfig.idle_timeout` seconds."""
        ...

    @property
    def adapter_version(self) -> str | None:
        """Version of the adapter that generates the result, as the endpoint reports it; None if it reports none."""
        ...


ResultT = TypeVar("ResultT", bound=StartedResult)
ResultT_co = TypeVar("ResultT_co", bound=StartedResult, covariant=True)


class EndpointExchange(Protocol[ResultT_co]):
    """One request, such as for an answer or for embeddings, that can be sent to any Ray endpoint, more than once.

    The attributes do not change between attempts: ids of the request, its task type, account (`scope`) and session,
    the time limit for starting a result (`start_seconds`), whether its first attempt counts as a retry (`is_retry`),
    whether it may be sent to two endpoints at once (`may_hedge`), and whether its time to the start is a sample of the
    endpoint's latency (`is_latency_sample`).
    """

    request_id: str
    task_type: str
    scope: str | None
    """The account by which places in the queue and at engines are shared fairly; None without accounts."""
    session_id: str | None
    """Requests with the same session id prefer the same endpoint; None for no preference."""
    start_seconds: float
    """Time limit in seconds for an endpoint to start the result."""
    is_retry: bool
    """Whether even the first attempt counts as a retry in the retry budget."""
    may_hedge: bool
    """Whether the request may be sent to a second endpoint while the first has not started a result."""
    is_latency_sample: bool
    """Whether the time until its result starts is used to compare endpoints, to decide when to hedge, and to open the
    circuit breaker if it is too long.
    """

    def target(self, endpoint: str) -> str:
        """The URL to which the request is sent, derived from the configured URL `endpoint`."""
        ...

    def send(self, url: str, start_by: Deadline) -> AbstractAsyncContextManager[ResultT_co]:
        """Context manager that sends the request to `url` once; entered when its result has started, before `start_by`.

        A result has started when the first content of an answer, or all vectors, have arrived. Entering raises
        `AttemptError` if this attempt failed or `start_by` passed, or a `CallerError` if the endpoint refused the
        request as wrong. Exit closes the connection, unless the result is complete.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointResult(Generic[ResultT]):
    """A result (an answer after its first content, or vectors), and the endpoint that it comes from.

    `endpoint`: host, port and path of the endpoint's URL.
    """

    endpoint: str
    result: ResultT
