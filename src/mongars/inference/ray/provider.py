"""The Ray Serve provider: several endpoints of the same application, over HTTP."""

from __future__ import annotations

import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mongars.inference.endpoints.pool import EndpointPool
from mongars.inference.events import split_label
from mongars.inference.provider import ProviderName, ProviderState, ProviderStatus
from mongars.inference.ray.call import RayCall, RayCallContext
from mongars.inference.ray.hedge import HedgeContext
from mongars.inference.ray.prober import Prober
from mongars.inference.request_queue import RequestQueue
from mongars.inference.retry.budget import RetryBudget
from mongars.inference.retry.hedging import Hedging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import Observer
    from mongars.inference.config import InferenceConfig
    from mongars.inference.endpoints.status import EndpointStatus
    from mongars.inference.http.pool import HttpPool
    from mongars.inference.provider import Attempts, ProviderStream

MAX_QUEUE_SHARE = 0.5
"""Of the time in which Ray must start to answer, a request may wait so much before it is sent."""


class RayServe:
    """Asks the endpoints in `RAY_SERVE_URL`; see `RayCall` for the way of one request."""

    name: ProviderName = "ray_serve"

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
        """`sole_provider`: no other provider can answer; see `EndpointPool`."""
        self._pool = EndpointPool(
            config.endpoints,
            clock=clock,
            rest_after=config.max_scale_cycles,
            random=random,
            max_requests=config.max_connections,
            sole_provider=sole_provider,
        )
        self._config = config
        self._sole_provider = sole_provider
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
            http=http,
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

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AsyncIterator[ProviderStream]:
        """Begin an answer at the first endpoint that can; see `Provider.open`.

        Raises `EndpointUnreachable` at once, without a word on the network, while all endpoints
        are known to be down; `Overloaded` or `NotReady` if waiting would take too long.
        """
        deadline.check("ask Ray")
        commit_by = self._context.config.commit_by(request, deadline)
        patience = MAX_QUEUE_SHARE * commit_by.remaining()
        share = self._config.share(request.scope)
        async with self._queue.slot(patience, share), AsyncExitStack() as stack:
            call = RayCall(self._context, request, deadline=deadline, attempts=attempts)
            stream = await call.start(commit_by, stack)
            self._queue.wake()  # an answer that began may have shown that there is room for more
            yield stream

    async def context_tokens(self) -> int | None:
        """Not known: each application has its own, and says so when a prompt is too long."""
        return None

    async def run(self) -> None:
        """Watch the endpoints that are down."""
        await self._prober.run(self._queue.wake)

    async def status(self) -> ProviderStatus:
        """By what requests and probes found; endpoints not heard of lately are probed now."""
        await self._prober.visit(self._pool.probes.stale())
        found = self._pool.control.statuses()
        shown = tuple(dataclasses.replace(e, url="".join(split_label(e.url))) for e in found)
        return ProviderStatus(
            name=self.name, state=_overall(found), detail=_summary(found), endpoints=shown
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._context.http.aclose()

    def drain(self, endpoint_id: str) -> bool:
        """Send nothing there any more; see `EndpointPool.drain`."""
        found = self._pool.control.drain(endpoint_id)
        self._queue.wake()
        return found

    def reset(self, endpoint_id: str) -> bool:
        """Forget what was seen of it; see `EndpointPool.reset`."""
        found = self._pool.control.reset(endpoint_id)
        self._queue.wake()
        return found

    def _capacity(self) -> int | None:
        room, maximum = self._pool.selection.capacity, self._config.max_connections
        if room is None:  # it will be known at once that nobody is there; or they are tried anyway
            return maximum if self._sole_provider else None
        return min(room, maximum)


def _overall(endpoints: tuple[EndpointStatus, ...]) -> ProviderState:
    states = {endpoint.state for endpoint in endpoints}
    if states & {"up", "warming", "probing"}:
        return "up"
    if "resting" in states:
        return "resting"
    return "unknown" if states & {"unknown", "untested"} else "down"


def _summary(endpoints: tuple[EndpointStatus, ...]) -> str:
    up = sum(endpoint.state in {"up", "warming"} for endpoint in endpoints)
    summary = f"{up} of {len(endpoints)} endpoints up"
    rests = [e.opens_in for e in endpoints if e.state == "resting" and e.opens_in is not None]
    if not rests:
        return summary
    return f"{summary}, {len(rests)} resting (returned Retry-After), again in {min(rests):.0f} s"
