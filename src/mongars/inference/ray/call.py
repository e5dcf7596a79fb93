"""One exchange with the Ray endpoints: attempts, retries and hedges until a result starts.

1. The rotation plans an attempt at an endpoint, and the request acquires a lease there; without a lease,
   the next attempt is planned.
2. The request is sent, and its result awaited. If it does not start after the usual time, the request may be
   sent to a second endpoint as well (`hedge`).
3. If it fails before that, the failure is recorded for the endpoint, and the next attempt is planned.
4. After that the result is read by the client's request; how it ends is recorded for the endpoint.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypedDict

from mongars.core.errors import (
    EndpointUnreachable,
    GenerationInterrupted,
    Overloaded,
    RetryableLater,
    WorldError,
)
from mongars.inference.endpoints.rotation import Rotation
from mongars.inference.events import (
    AttemptFailed,
    AttemptSkipped,
    AttemptStarted,
    AttemptSucceeded,
    EndpointChanged,
    ScalingSeen,
    split_label,
)
from mongars.inference.ray.exchange import EndpointResult, ResultT
from mongars.inference.ray.hedge import RayHedge
from mongars.inference.retry.failures import AttemptError, FailureClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager, AsyncExitStack

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.observe import Observer
    from mongars.inference.config import InferenceConfig
    from mongars.inference.endpoints.outcomes import FailureKind
    from mongars.inference.endpoints.pool import EndpointPool
    from mongars.inference.endpoints.state import EndpointLease
    from mongars.inference.provider import Attempts
    from mongars.inference.ray.exchange import EndpointExchange
    from mongars.inference.ray.hedge import HedgeContext
    from mongars.inference.retry.budget import RetryBudget

MIN_ATTEMPT_SHARE = 0.1
"""An attempt is sent only if at least this share of the time for starting a result is left."""

MIN_TIMEOUT_SHARE = 0.5
"""A timeout counts as the endpoint's failure only if it had at least this share of the usual time limit."""


_FAILURE_KINDS: dict[FailureClass, FailureKind] = {
    "error": "error",
    "invalid": "error",
    "timeout": "timeout",
    "unreachable": "unreachable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCallContext:
    """What all requests to the Ray endpoints share: settings, endpoint states, retry budget, clock, observer."""

    config: InferenceConfig
    pool: EndpointPool
    clock: Clock
    observer: Observer
    random: Callable[[], float]
    budget: RetryBudget
    hedge: HedgeContext | None
    """Shared state of hedges; None if hedging is disabled."""


class _Label(TypedDict):
    request_id: str
    task_type: str
    endpoint: str
    path: str
    attempt: int


class RayCall(Generic[ResultT]):
    """Sends one request to the Ray endpoints, in one or more attempts, until an endpoint starts a result.

    A result has started when the first content of an answer, or all vectors of a request for embeddings, have arrived.
    """

    def __init__(
        self,
        context: RayCallContext,
        exchange: EndpointExchange[ResultT],
        *,
        deadline: Deadline,
        attempts: Attempts,
    ) -> None:
        """`exchange`: the request, and how its result (an answer or vectors) is read from a response.

        `context`: what all requests share. `deadline`: when the result must be complete. `attempts` counts the
        requests sent to all providers (Ray, Ollama, embedded engine) on behalf of the same client request.
        """
        self._context = context
        self._pool = context.pool
        self._clock = context.clock
        self._observer = context.observer
        self._exchange = exchange
        self._deadline = deadline
        self._attempts = attempts
        self._rotation = Rotation(
            context.pool.selection,
            context.config,
            clock=context.clock,
            random=context.random,
            session_id=exchange.session_id if context.config.session_affinity else None,
        )
        self._busy = Counter[str]()
        self._server_error_seen = False

    async def start(self, start_by: Deadline, stack: AsyncExitStack) -> EndpointResult[ResultT]:
        """The first result that an endpoint starts before `start_by`; its connection is open until `stack` is closed.

        A result has started when the first content of an answer, or all vectors, have arrived. Raises a `CallerError`
        if the request is wrong, else the `WorldError` of the last attempt. If nothing was sent: `Overloaded` if an
        endpoint that was busy could be used later, else `EndpointUnreachable`, also if the request is itself a retry
        (`exchange.is_retry`) and the retry budget, which limits the share of retries, permits no more.
        """
        latest = start_by.at - MIN_ATTEMPT_SHARE * start_by.remaining()
        last: AttemptError | None = None
        while (planned := self._rotation.next(not_after=latest)) is not None:
            while (wait := planned.at - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait)
            lease = self._pool.leases.acquire(planned.url)
            if lease is None:
                continue  # another request's outcome made it unavailable meanwhile
            if not self._may_send(last):
                self._pool.leases.release(lease)
                if last is None:
                    detail = (
                        "The retry budget is spent, so this request, itself a retry, was not sent."
                    )
                    raise EndpointUnreachable(detail)
                break
            self._rotation.record_sent()
            try:
                attempt = self._open_attempt(lease, start_by, first=last is None)
                return await stack.enter_async_context(attempt)
            except AttemptError as failure:
                last = failure
        raise self._final_error(last)

    def _may_send(self, last: AttemptError | None) -> bool:
        """Whether the next attempt may be sent; if so, it is recorded in the retry budget, the limit on retries.

        `last`: the error of the previous attempt, None before the first. A first attempt is always allowed, unless the
        request is a retry as a whole (`exchange.is_retry`). An attempt is also always allowed, and is not recorded, if
        the endpoint of the previous one did no work: no connection was established, or it lacks the route (status 404
        or 405). Other attempts are allowed only if the retry budget permits one more.
        """
        if last is None and not self._exchange.is_retry:
            self._context.budget.request()
            if self._context.hedge is not None:
                self._context.hedge.hedging.request()
            return True
        return (last is not None and last.unsent) or self._context.budget.spend()

    def _open_attempt(
        self, lease: EndpointLease, start_by: Deadline, *, first: bool
    ) -> AbstractAsyncContextManager[EndpointResult[ResultT]]:
        """Context manager that sends one attempt under the permission `lease`; entered when its result has started.

        A result has started when the first content of an answer, or all vectors, have arrived, at the latest at
        `start_by`. `first`: whether this is the request's first attempt; only then, if it is slow, a duplicate (hedge)
        may be sent to another endpoint. Entering raises `AttemptError` if the attempt failed, `CallerError` if the
        request is wrong.
        """
        context = self._context.hedge if first and self._exchange.may_hedge else None
        delay = None if context is None else context.hedging.delay
        latest = (1 - MIN_ATTEMPT_SHARE) * start_by.remaining()
        if context is None or delay is None or delay >= latest:
            return self._attempt(lease, start_by)
        hedge = RayHedge(
            context,
            self._exchange,
            rotation=self._rotation,
            attempt=lambda leased: self._attempt(leased, start_by),
        )
        return hedge.open(lease, delay=delay)

    @asynccontextmanager
    async def _attempt(
        self, lease: EndpointLease, start_by: Deadline
    ) -> AsyncIterator[EndpointResult[ResultT]]:
        url = self._exchange.target(lease.url)
        label = self._report_started(url)
        seconds = start_by.remaining()
        try:
            async with self._exchange.send(url, start_by) as result:
                started_at = self._clock.monotonic()
                if self._record_start(lease, result, started_at=started_at):
                    self._report_state(lease, "reachable")
                try:
                    yield EndpointResult(endpoint=label["endpoint"] + label["path"], result=result)
                finally:
                    self._record_end(lease, label, result, started_at=started_at)
        except AttemptError as failure:
            had_time = seconds >= MIN_TIMEOUT_SHARE * self._exchange.start_seconds
            self._handle_failure(lease, label, failure, had_time=had_time)
            raise
        finally:
            self._pool.leases.release(lease)

    def _record_start(self, lease: EndpointLease, result: ResultT, *, started_at: float) -> bool:
        """Record in the state of its endpoint that a result started: first content, or all vectors, have arrived.

        `lease`: the permission under which the request was sent; it names the endpoint. `started_at`: when the result
        started, in monotonic seconds. Returns True if the endpoint was reported as down and now is not.
        """
        sample = self._exchange.is_latency_sample
        if sample and self._context.hedge is not None:
            self._context.hedge.hedging.record_wait(started_at - lease.acquired_at)
        return self._pool.outcomes.record_first_token(
            lease, adapter_version=result.adapter_version, is_latency_sample=sample
        )

    def _report_started(self, url: str) -> _Label:
        endpoint, path = split_label(url)
        label = _Label(
            request_id=self._exchange.request_id,
            task_type=self._exchange.task_type,
            endpoint=endpoint,
            path=path,
            attempt=self._attempts.add(),
        )
        self._observer.observe(AttemptStarted(**label))
        return label

    def _handle_failure(
        self, lease: EndpointLease, label: _Label, failure: AttemptError, *, had_time: bool
    ) -> None:
        self._rotation.record_failure(lease.url, failure.failure_class)
        if failure.failure_class == "busy":
            self._record_busy(lease, label, failure)
            return
        detail = str(failure) if failure.reason == "transport_error" else None
        self._observer.observe(
            AttemptFailed(
                **label,
                reason=failure.reason,
                error=failure.error.code,
                status_code=failure.status,
                detail=detail,
            )
        )
        if failure.is_late and not self._exchange.is_latency_sample:
            if had_time:
                self._pool.outcomes.record_late(lease, error=failure.error.code)
        elif self._counts_against_endpoint(failure, had_time=had_time):
            kind = _FAILURE_KINDS[failure.failure_class]
            self._record_failure(lease, detail or failure.error.code, kind)

    def _record_busy(self, lease: EndpointLease, label: _Label, failure: AttemptError) -> None:
        wait = failure.retry_after
        if wait is None:
            wait = self._rotation.delay(self._busy[lease.url])
        self._busy[lease.url] += 1
        delay = self._pool.outcomes.record_busy(lease, wait=wait)
        self._observer.observe(
            ScalingSeen(**label, status_code=failure.status, delay_seconds=round(delay, 3))
        )

    def _counts_against_endpoint(self, failure: AttemptError, *, had_time: bool) -> bool:
        if failure.failure_class not in _FAILURE_KINDS:
            return False
        if failure.is_late and not had_time:
            return False
        if failure.failure_class in {"error", "invalid"} and failure.reason != "transport_error":
            # A request that fails at every endpoint is probably the cause: count it once.
            first = not self._server_error_seen
            self._server_error_seen = True
            return first
        return True

    def _record_failure(self, lease: EndpointLease, error: str, kind: FailureKind) -> None:
        if self._pool.outcomes.record_failure(lease, error=error, kind=kind):
            self._report_state(lease, "down")

    def _report_state(self, lease: EndpointLease, state: Literal["down", "reachable"]) -> None:
        host, path = split_label(lease.url)
        self._observer.observe(EndpointChanged(endpoint=host, path=path, state=state))

    def _record_end(
        self, lease: EndpointLease, label: _Label, result: ResultT, *, started_at: float
    ) -> None:
        state = result.state
        if state == "complete":
            self._pool.outcomes.record_completed(lease)
            self._observer.observe(
                AttemptSucceeded(
                    **label,
                    first_token_seconds=started_at - lease.acquired_at,
                    seconds=self._clock.monotonic() - lease.acquired_at,
                )
            )
        elif state == "cut":
            error = GenerationInterrupted.code
            self._observer.observe(AttemptFailed(**label, reason="interrupted", error=error))
            if not self._deadline.expired():
                self._record_failure(lease, error, "stalled" if result.stalled else "error")

    def _final_error(self, last: AttemptError | None) -> WorldError:
        wait = self._pool.control.retry_after()
        if last is None:
            self._report_skipped()
        if last is None and wait is None:
            return EndpointUnreachable("Every Ray endpoint is known to be down.")
        if last is None:
            return Overloaded("Every Ray endpoint returned Retry-After.", retry_after=wait)
        if isinstance(last.error, RetryableLater):
            return type(last.error)(str(last.error), retry_after=wait)
        return last.error

    def _report_skipped(self) -> None:
        for status in self._pool.control.statuses():
            endpoint, path = split_label(status.url)
            self._observer.observe(
                AttemptSkipped(
                    request_id=self._exchange.request_id,
                    task_type=self._exchange.task_type,
                    endpoint=endpoint,
                    path=path,
                    reason=status.state,
                )
            )
