"""The Ray Serve provider: several endpoints of the same application, over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import Overloaded
from mongars.inference.endpoints import EndpointPool
from mongars.inference.events import split_label
from mongars.inference.provider import ProviderName, ProviderState, ProviderStatus
from mongars.inference.providers.prober import Prober
from mongars.inference.providers.ray_call import RayCall, RayTools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import Observer
    from mongars.inference.config import InferenceConfig
    from mongars.inference.endpoints import EndpointStatus
    from mongars.inference.provider import Attempts, ProviderStream
    from mongars.inference.providers.http import HttpPool

SLOT_PATIENCE = 1.0
"""How long a request waits for one of `RAY_CLIENT_MAX_CONNECTIONS` before it goes elsewhere."""


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
    ) -> None:
        self._pool = EndpointPool(config.endpoints, clock=clock, rest_after=config.max_scale_cycles)
        self._tools = RayTools(
            config=config,
            http=http,
            pool=self._pool,
            clock=clock,
            observer=observer,
            random=random,
        )
        self._prober = Prober(
            self._pool, http, config=config, clock=clock, observer=observer, random=random
        )
        self._slots = asyncio.Semaphore(config.max_connections)

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AsyncIterator[ProviderStream]:
        """Begin an answer at the first endpoint that can; see `Provider.open`.

        Raises `EndpointUnreachable` at once, without a word on the network, while all endpoints
        are known to be down; `Overloaded` or `NotReady` if waiting would take too long.
        """
        deadline.check("ask Ray")
        commit_by = self._tools.config.commit_by(request, deadline)
        async with self._slot(commit_by), AsyncExitStack() as stack:
            call = RayCall(self._tools, request, deadline=deadline, attempts=attempts)
            yield await call.begin(commit_by, stack)

    async def run(self) -> None:
        """Watch the endpoints that are down."""
        await self._prober.run()

    async def status(self) -> ProviderStatus:
        """By what requests and probes found; endpoints not heard of lately are probed now."""
        await self._prober.visit(self._pool.unheard())
        found = self._pool.statuses()
        shown = tuple(dataclasses.replace(e, url="".join(split_label(e.url))) for e in found)
        return ProviderStatus(
            name=self.name, state=_overall(found), detail=_summary(found), endpoints=shown
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._tools.http.aclose()

    @asynccontextmanager
    async def _slot(self, commit_by: Deadline) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(min(SLOT_PATIENCE, commit_by.remaining() / 2)):
                await self._slots.acquire()
        except TimeoutError as exc:
            limit = self._tools.config.max_connections
            detail = f"All {limit} connections to Ray are in use (RAY_CLIENT_MAX_CONNECTIONS)."
            raise Overloaded(detail, retry_after=SLOT_PATIENCE) from exc
        try:
            yield
        finally:
            self._slots.release()


def _overall(endpoints: tuple[EndpointStatus, ...]) -> ProviderState:
    states = {endpoint.state for endpoint in endpoints}
    if states & {"up", "resting", "probing"}:
        return "up"
    return "unknown" if "unknown" in states else "down"


def _summary(endpoints: tuple[EndpointStatus, ...]) -> str:
    up = sum(endpoint.state == "up" for endpoint in endpoints)
    return f"{up} of {len(endpoints)} endpoints up"
