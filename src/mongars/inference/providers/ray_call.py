"""The way of one request through the Ray endpoints, up to and including its stream.

1. The rotation names an endpoint; the pool admits the request there, or does not.
2. One exchange, up to the first content token: the commit gate.
   Is that late, a second endpoint may be asked beside the first (`ray_hedge`).
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
from mongars.inference.events import (
    AttemptFailed,
    AttemptSkipped,
    AttemptStarted,
    AttemptSucceeded,
    EndpointChanged,
    ScalingSeen,
    split_label,
)
from mongars.inference.failures import AttemptError, Verdict
from mongars.inference.provider import ProviderStream
from mongars.inference.providers.ray_exchange import Begun, RayExchange
from mongars.inference.providers.ray_hedge import RayHedge
from mongars.inference.rotation import Rotation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import Observer
    from mongars.inference.budget import RetryBudget
    from mongars.inference.config import InferenceConfig
    from mongars.inference.endpoints import Admission, Blame, EndpointPool
    from mongars.inference.provider import Attempts
    from mongars.inference.providers.http import HttpPool
    from mongars.inference.providers.ray_hedge import HedgeTools

LEAST_SHARE = 0.1
"""No attempt is begun with less than this share of the time; it could not succeed."""

FAIR_SHARE = 0.5
"""An endpoint is blamed for silence only if it had at least this share of the time."""


_BLAME: dict[Verdict, Blame] = {
    "broken": "mark",
    "unusable": "mark",
    "silent": "silent",
    "gone": "gone",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayTools:
    """What all calls share."""

    config: InferenceConfig
    http: HttpPool
    pool: EndpointPool
    clock: Clock
    observer: Observer
    random: Callable[[], float]
    budget: RetryBudget
    hedge: HedgeTools | None
    """None where no request is hedged."""


class _Label(TypedDict):
    request_id: str
    task_type: str
    endpoint: str
    path: str
    attempt: int


class RayCall:
    """One request on its way."""

    def __init__(
        self, tools: RayTools, request: GenerationRequest, *, deadline: Deadline, attempts: Attempts
    ) -> None:
        self._tools = tools
        self._pool = tools.pool
        self._clock = tools.clock
        self._observer = tools.observer
        self._request = request
        self._deadline = deadline
        self._attempts = attempts
        self._rotation = Rotation(
            tools.pool,
            tools.config,
            clock=tools.clock,
            random=tools.random,
            session_id=request.session_id if tools.config.session_affinity else None,
        )
        self._exchange = RayExchange(
            request,
            config=tools.config,
            http=tools.http,
            clock=tools.clock,
            deadline=deadline,
            attempts=attempts,
        )
        self._cap = tools.config.first_token_cap(request)
        self._busy = Counter[str]()
        self._server_error_seen = False

    async def begin(self, commit_by: Deadline, stack: AsyncExitStack) -> ProviderStream:
        """The answer of the first endpoint that begins one; `stack` holds it open.

        Raises a `CallerError`, or the `WorldError` that says best why Ray did not answer.
        """
        latest = commit_by.at - LEAST_SHARE * commit_by.remaining()
        last: AttemptError | None = None
        while (step := self._rotation.next(not_after=latest)) is not None:
            while (wait := step.at - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait)
            admission = self._pool.admit(step.url)
            if admission is None:
                continue  # somebody else's answer closed it meanwhile
            if not self._may_send(last):
                self._pool.release(admission)
                break
            self._rotation.sent()
            try:
                opening = self._opening(admission, commit_by, first=last is None)
                return await stack.enter_async_context(opening)
            except AttemptError as failure:
                last = failure
        raise self._conclusion(last)

    def _may_send(self, last: AttemptError | None) -> bool:
        """First attempts always; others from the budget, unless nothing has been sent yet."""
        if last is None and self._request.continue_from is None:
            self._tools.budget.request()
            if self._tools.hedge is not None:
                self._tools.hedge.hedging.request()
            return True
        return (last is not None and last.unsent) or self._tools.budget.spend()

    def _opening(
        self, admission: Admission, commit_by: Deadline, *, first: bool
    ) -> AbstractAsyncContextManager[ProviderStream]:
        """One attempt; or, for a first one that may be late, up to two side by side."""
        tools = self._tools.hedge if first else None
        delay = None if tools is None else tools.hedging.delay(self._request)
        latest = (1 - LEAST_SHARE) * commit_by.remaining()
        if tools is None or delay is None or delay >= latest:
            return self._attempt(admission, commit_by)
        hedge = RayHedge(
            tools,
            self._request,
            rotation=self._rotation,
            attempt=lambda admitted: self._attempt(admitted, commit_by),
        )
        return hedge.open(admission, delay=delay)

    @asynccontextmanager
    async def _attempt(
        self, admission: Admission, commit_by: Deadline
    ) -> AsyncIterator[ProviderStream]:
        label = self._started(admission)
        patience = commit_by.remaining()
        try:
            async with self._exchange.open(admission.url, commit_by) as begun:
                began = self._clock.monotonic()
                if self._tools.hedge is not None:
                    self._tools.hedge.hedging.waited(began - admission.at)
                if self._pool.committed(admission, adapter_version=begun.origin.adapter_version):
                    self._changed(admission, "reachable")
                try:
                    yield ProviderStream(
                        origin=begun.origin,
                        endpoint=label["endpoint"] + label["path"],
                        chunks=begun.chunks,
                        continued=begun.continued,
                    )
                finally:
                    self._ended(admission, label, begun, began=began)
        except AttemptError as failure:
            self._failed(admission, label, failure, fair=patience >= FAIR_SHARE * self._cap)
            raise
        finally:
            self._pool.release(admission)

    def _started(self, admission: Admission) -> _Label:
        endpoint, path = split_label(admission.url)
        label = _Label(
            request_id=self._request.request_id,
            task_type=self._request.task_type,
            endpoint=endpoint,
            path=path,
            attempt=self._attempts.add(),
        )
        self._observer.observe(AttemptStarted(**label))
        return label

    def _failed(
        self, admission: Admission, label: _Label, failure: AttemptError, *, fair: bool
    ) -> None:
        self._rotation.failed(admission.url, failure.verdict)
        if failure.verdict == "busy":
            self._leave_alone(admission, label, failure)
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
        if self._is_its_fault(failure, fair=fair):
            self._blame(admission, detail or failure.error.code, _BLAME[failure.verdict])

    def _leave_alone(self, admission: Admission, label: _Label, failure: AttemptError) -> None:
        wait = failure.retry_after
        if wait is None:
            wait = self._rotation.delay(self._busy[admission.url])
        self._busy[admission.url] += 1
        delay = self._pool.busy(admission, wait=wait)
        self._observer.observe(
            ScalingSeen(**label, status_code=failure.status, delay_seconds=round(delay, 3))
        )

    def _is_its_fault(self, failure: AttemptError, *, fair: bool) -> bool:
        if failure.verdict == "silent":
            return fair
        if failure.verdict in {"broken", "unusable"} and failure.reason != "transport_error":
            # The same request failing everywhere says more about the request: blame one for it.
            first = not self._server_error_seen
            self._server_error_seen = True
            return first
        return True

    def _blame(self, admission: Admission, error: str, blame: Blame) -> None:
        if self._pool.failed(admission, error=error, blame=blame):
            self._changed(admission, "down")

    def _changed(self, admission: Admission, state: Literal["down", "reachable"]) -> None:
        host, path = split_label(admission.url)
        self._observer.observe(EndpointChanged(endpoint=host, path=path, state=state))

    def _ended(self, admission: Admission, label: _Label, begun: Begun, *, began: float) -> None:
        if begun.chunks.state == "complete":
            self._pool.completed(admission)
            self._observer.observe(
                AttemptSucceeded(
                    **label,
                    first_token_seconds=began - admission.at,
                    seconds=self._clock.monotonic() - admission.at,
                )
            )
        elif begun.chunks.state == "cut":
            error = GenerationInterrupted()
            self._observer.observe(AttemptFailed(**label, reason="interrupted", error=error.code))
            if not self._deadline.expired():
                self._blame(admission, error.code, "stalled" if begun.chunks.stalled else "mark")

    def _conclusion(self, last: AttemptError | None) -> WorldError:
        wait = self._pool.soonest()
        if last is None:
            self._skipped()
        if last is None and wait is None:
            return EndpointUnreachable("Every Ray endpoint is known to be down.")
        if last is None:
            return Overloaded("Every Ray endpoint returned Retry-After.", retry_after=wait)
        if isinstance(last.error, RetryableLater):
            return type(last.error)(str(last.error), retry_after=wait)
        return last.error

    def _skipped(self) -> None:
        for status in self._pool.statuses():
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
