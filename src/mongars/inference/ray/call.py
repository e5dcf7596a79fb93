"""The way of one request through the Ray endpoints, up to and including its stream.

1. The rotation names an endpoint; the pool admits the request there, or does not.
2. One exchange, up to the first content token: the commit gate.
   Is that late, a second endpoint may be asked second_endpoint the first (`ray_hedge`).
3. Before it, a failure sends the request on, with what the failure means for the endpoint.
4. After it, the stream is the caller's; how it ends is reported to the pool.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

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
from mongars.inference.provider import ProviderStream
from mongars.inference.ray.exchange import RayExchange, StartedAnswer
from mongars.inference.ray.hedge import RayHedge
from mongars.inference.retry.failures import AttemptError, FailureClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import Observer
    from mongars.inference.config import InferenceConfig
    from mongars.inference.endpoints.health import FailureKind
    from mongars.inference.endpoints.pool import EndpointPool
    from mongars.inference.endpoints.state import EndpointLease
    from mongars.inference.http.pool import HttpPool
    from mongars.inference.provider import Attempts
    from mongars.inference.ray.hedge import HedgeContext
    from mongars.inference.retry.budget import RetryBudget

MIN_ATTEMPT_SHARE = 0.1
"""No attempt is started with less than this share of the time; it could not succeed."""

MIN_TIMEOUT_SHARE = 0.5
"""An endpoint is blamed for silence only if it had at least this share of the time."""


_FAILURE_KINDS: dict[FailureClass, FailureKind] = {
    "error": "error",
    "invalid": "error",
    "timeout": "timeout",
    "unreachable": "unreachable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCallContext:
    """What all calls share."""

    config: InferenceConfig
    http: HttpPool
    pool: EndpointPool
    clock: Clock
    observer: Observer
    random: Callable[[], float]
    budget: RetryBudget
    hedge: HedgeContext | None
    """None where no request is record_hedge."""


class _Label(TypedDict):
    request_id: str
    task_type: str
    endpoint: str
    path: str
    attempt: int


class RayCall:
    """One request on its way."""

    def __init__(
        self,
        context: RayCallContext,
        request: GenerationRequest,
        *,
        deadline: Deadline,
        attempts: Attempts,
    ) -> None:
        self._context = context
        self._pool = context.pool
        self._clock = context.clock
        self._observer = context.observer
        self._request = request
        self._deadline = deadline
        self._attempts = attempts
        self._rotation = Rotation(
            context.pool.selection,
            context.config,
            clock=context.clock,
            random=context.random,
            session_id=request.session_id if context.config.session_affinity else None,
        )
        self._exchange = RayExchange(
            request,
            config=context.config,
            http=context.http,
            clock=context.clock,
            deadline=deadline,
            attempts=attempts,
        )
        self._cap = context.config.first_token_cap(request)
        self._busy = Counter[str]()
        self._server_error_seen = False

    async def start(self, commit_by: Deadline, stack: AsyncExitStack) -> ProviderStream:
        """The answer of the first endpoint that begins one; `stack` holds it open.

        Raises a `CallerError`, or the `WorldError` that says best why Ray did not answer.
        """
        latest = commit_by.at - MIN_ATTEMPT_SHARE * commit_by.remaining()
        last: AttemptError | None = None
        while (planned := self._rotation.next(not_after=latest)) is not None:
            while (wait := planned.at - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait)
            lease = self._pool.leases.acquire(planned.url)
            if lease is None:
                continue  # somebody else's answer closed it meanwhile
            if not self._may_send(last):
                self._pool.leases.release(lease)
                break
            self._rotation.record_sent()
            try:
                opening = self._open_attempt(lease, commit_by, first=last is None)
                return await stack.enter_async_context(opening)
            except AttemptError as failure:
                last = failure
        raise self._final_error(last)

    def _may_send(self, last: AttemptError | None) -> bool:
        """First attempts always; others from the budget, unless nothing has been sent yet."""
        if last is None and self._request.continue_from is None:
            self._context.budget.request()
            if self._context.hedge is not None:
                self._context.hedge.hedging.request()
            return True
        return (last is not None and last.unsent) or self._context.budget.spend()

    def _open_attempt(
        self, lease: EndpointLease, commit_by: Deadline, *, first: bool
    ) -> AbstractAsyncContextManager[ProviderStream]:
        """One attempt; or, for a first one that may be late, up to two side by side."""
        context = self._context.hedge if first else None
        delay = None if context is None else context.hedging.delay(self._request)
        latest = (1 - MIN_ATTEMPT_SHARE) * commit_by.remaining()
        if context is None or delay is None or delay >= latest:
            return self._attempt(lease, commit_by)
        hedge = RayHedge(
            context,
            self._request,
            rotation=self._rotation,
            attempt=lambda admitted: self._attempt(admitted, commit_by),
        )
        return hedge.open(lease, delay=delay)

    @asynccontextmanager
    async def _attempt(
        self, lease: EndpointLease, commit_by: Deadline
    ) -> AsyncIterator[ProviderStream]:
        label = self._report_started(lease)
        patience = commit_by.remaining()
        try:
            async with self._exchange.open(lease.url, commit_by) as started:
                started_at = self._clock.monotonic()
                if self._context.hedge is not None:
                    self._context.hedge.hedging.record_wait(started_at - lease.acquired_at)
                if self._pool.health.record_first_token(
                    lease, adapter_version=started.origin.adapter_version
                ):
                    self._report_state(lease, "reachable")
                try:
                    yield ProviderStream(
                        origin=started.origin,
                        endpoint=label["endpoint"] + label["path"],
                        chunks=started.chunks,
                        continued=started.continued,
                    )
                finally:
                    self._record_end(lease, label, started, started_at=started_at)
        except AttemptError as failure:
            self._handle_failure(
                lease, label, failure, fair=patience >= MIN_TIMEOUT_SHARE * self._cap
            )
            raise
        finally:
            self._pool.leases.release(lease)

    def _report_started(self, lease: EndpointLease) -> _Label:
        endpoint, path = split_label(lease.url)
        label = _Label(
            request_id=self._request.request_id,
            task_type=self._request.task_type,
            endpoint=endpoint,
            path=path,
            attempt=self._attempts.add(),
        )
        self._observer.observe(AttemptStarted(**label))
        return label

    def _handle_failure(
        self, lease: EndpointLease, label: _Label, failure: AttemptError, *, fair: bool
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
        if self._counts_against_endpoint(failure, fair=fair):
            self._record_failure(
                lease, detail or failure.error.code, _FAILURE_KINDS[failure.failure_class]
            )

    def _record_busy(self, lease: EndpointLease, label: _Label, failure: AttemptError) -> None:
        wait = failure.retry_after
        if wait is None:
            wait = self._rotation.delay(self._busy[lease.url])
        self._busy[lease.url] += 1
        delay = self._pool.health.record_busy(lease, wait=wait)
        self._observer.observe(
            ScalingSeen(**label, status_code=failure.status, delay_seconds=round(delay, 3))
        )

    def _counts_against_endpoint(self, failure: AttemptError, *, fair: bool) -> bool:
        if failure.failure_class == "timeout":
            return fair
        if failure.failure_class in {"error", "invalid"} and failure.reason != "transport_error":
            # The same request failing everywhere says more about the request: count one for it.
            first = not self._server_error_seen
            self._server_error_seen = True
            return first
        return True

    def _record_failure(self, lease: EndpointLease, error: str, kind: FailureKind) -> None:
        if self._pool.health.record_failure(lease, error=error, kind=kind):
            self._report_state(lease, "down")

    def _report_state(self, lease: EndpointLease, state: Literal["down", "reachable"]) -> None:
        host, path = split_label(lease.url)
        self._observer.observe(EndpointChanged(endpoint=host, path=path, state=state))

    def _record_end(
        self, lease: EndpointLease, label: _Label, started: StartedAnswer, *, started_at: float
    ) -> None:
        if started.chunks.state == "complete":
            self._pool.health.record_completed(lease)
            self._observer.observe(
                AttemptSucceeded(
                    **label,
                    first_token_seconds=started_at - lease.acquired_at,
                    seconds=self._clock.monotonic() - lease.acquired_at,
                )
            )
        elif started.chunks.state == "cut":
            error = GenerationInterrupted()
            self._observer.observe(AttemptFailed(**label, reason="interrupted", error=error.code))
            if not self._deadline.expired():
                self._record_failure(
                    lease, error.code, "stalled" if started.chunks.stalled else "error"
                )

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
                    request_id=self._request.request_id,
                    task_type=self._request.task_type,
                    endpoint=endpoint,
                    path=path,
                    reason=status.state,
                )
            )
