"""The client of the Ray endpoints: one queue, endpoint pool and retry budget for all kinds of requests."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mongars.inference.endpoints.pool import EndpointPool
from mongars.inference.events import split_label
from mongars.inference.ray.call import RayCall, RayCallContext
from mongars.inference.ray.hedge import HedgeContext
from mongars.inference.ray.prober import Prober
from mongars.inference.request_queue import RequestQueue
from mongars.inference.retry.budget import RetryBudget
from mongars.inference.retry.hedging import Hedging

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack
    from typing import NoReturn

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.observe import Observer
    from mongars.inference.config import InferenceConfig
    from mongars.inference.endpoints.endpoint_status import EndpointStatus
    from mongars.inference.http.http_pool import HttpPool
    from mongars.inference.provider import Attempts
    from mongars.inference.ray.exchange import EndpointExchange, EndpointResult, ResultT

MAX_QUEUE_SHARE = 0.5
"""Share of the time for starting a result that a request may spend in the queue."""


class RayClient:
    """Sends requests of any kind, such as for answers or for embeddings, to the endpoints in `RAY_SERVE_URL`.

    It holds what all requests share: one queue, the states of the endpoints, a retry budget. `RayCall` sends one
    request.
    """

    def __init__(
        self,
        config: InferenceConfig,
        http: HttpPool,
        *,
        clock: Clock,
        observer: Observer,
        random: Callable[[], float],
        sole_provider: bool = False,
    ) -> None:
        """`random` returns a number in [0, 1). `observer` receives the events about attempts and endpoints.

        `http`: the connections, which this client does not close. `sole_provider`: no other provider can answer, so
        that circuit breakers are ignored while more than half of them are open.
        """
        self._config = config
        self._sole_provider = sole_provider
        self._pool = EndpointPool(
            config.endpoints,
            clock=clock,
            rest_after=config.max_scale_cycles,
            random=random,
            max_requests=config.max_connections,
            sole_provider=sole_provider,
        )
        self._queue = RequestQueue(self._capacity, clock=clock)
        budget = RetryBudget(clock)
        hedge = HedgeContext(
            hedging=Hedging(clock, budget),
            pool=self._pool,
            queue=self._queue,
            clock=clock,
            observer=observer,
        )
        self._context = RayCallContext(
            config=config,
            pool=self._pool,
            clock=clock,
            observer=observer,
            random=random,
            budget=budget,
            hedge=hedge if config.hedge else None,
        )
        self._prober = Prober(
            self._pool, http, config=config, clock=clock, observer=observer, random=random
        )

    async def start(
        self,
        exchange: EndpointExchange[ResultT],
        stack: AsyncExitStack,
        *,
        deadline: Deadline,
        attempts: Attempts,
    ) -> EndpointResult[ResultT]:
        """The first result that an endpoint starts: an answer after its first content, or all vectors.

        `stack` holds its queue place and connection until it is closed. `deadline`: the time by which the result must
        be complete. Raises a `CallerError` if the request is wrong; `EndpointUnreachable` at once, without sending
        anything, while all endpoints are down or drained; `Overloaded` if the wait in the queue would take more than
        half of the time for starting the result, or if all endpoints returned `Retry-After` beyond that time
        (`NotReady` if they are starting); `DeadlineExceeded` if the deadline has passed; or the `WorldError` of the
        last attempt.
        """
        deadline.check("send a request to Ray")
        start_by = self._config.start_by(exchange.start_seconds, deadline)
        max_wait = MAX_QUEUE_SHARE * start_by.remaining()
        slot = self._queue.slot(max_wait, self._config.share(exchange.scope))
        await stack.enter_async_context(slot)
        call = RayCall(self._context, exchange, deadline=deadline, attempts=attempts)
        found = await call.start(start_by, stack)
        self._queue.wake()  # a started result may have raised the endpoint's limit
        return found

    async def run(self) -> NoReturn:
        """Probe endpoints that are down, have failed or of which nothing is known, until cancelled."""
        await self._prober.run(self._queue.wake)

    async def statuses(self) -> tuple[EndpointStatus, ...]:
        """The status of every endpoint; endpoints without a recent response are probed first.

        They are in configured order. Takes at most two seconds. The URLs contain no credentials and no query.
        """
        await self._prober.probe(self._pool.probes.stale())
        found = self._pool.control.statuses()
        return tuple(dataclasses.replace(e, url="".join(split_label(e.url))) for e in found)

    def drain(self, endpoint_id: str) -> bool:
        """Send no further requests to an endpoint until `reset` is called for it.

        `endpoint_id`: such as `ray-1`, the number in configured order. Requests in flight go on. Returns False for an
        unknown id.
        """
        found = self._pool.control.drain(endpoint_id)
        self._queue.wake()
        return found

    def reset(self, endpoint_id: str) -> bool:
        """Forget the recorded failures, busy waits and latency of an endpoint, and use it again, also after `drain`.

        `endpoint_id`: such as `ray-1`, the number in configured order. Returns False for an unknown id.
        """
        found = self._pool.control.reset(endpoint_id)
        self._queue.wake()
        return found

    def _capacity(self) -> int | None:
        capacity, maximum = self._pool.selection.capacity, self._config.max_connections
        if (
            capacity is None
        ):  # requests fail at once, or are sent in panic mode: nothing to wait for
            return maximum if self._sole_provider else None
        return min(capacity, maximum)
