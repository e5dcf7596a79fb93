"""The Ray Serve provider: generation by several endpoints of the same application, over HTTP."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mongars.inference.provider import ProviderName, ProviderState, ProviderStatus, ProviderStream
from mongars.inference.ray.client import RayClient
from mongars.inference.ray.generation_exchange import GenerationExchange
from mongars.inference.ray.http_exchange import ExchangeContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import Observer
    from mongars.inference.config import InferenceConfig
    from mongars.inference.endpoints.endpoint_status import EndpointStatus
    from mongars.inference.http.http_pool import HttpPool
    from mongars.inference.provider import Attempts


class RayServe:
    """The provider that sends generation requests to the endpoints in `RAY_SERVE_URL`."""

    name: ProviderName = "ray_serve"
    local = False

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

        `http`: the connections, closed by `aclose`. `sole_provider`: no other provider can answer, so that circuit
        breakers are ignored while more than half of them are open.
        """
        self._context = ExchangeContext(config=config, http=http, clock=clock)
        self.client = RayClient(
            config,
            http,
            clock=clock,
            observer=observer,
            random=random,
            sole_provider=sole_provider,
        )
        """The client, for other kinds of requests to the same endpoints, such as embeddings."""

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AsyncIterator[ProviderStream]:
        """Context manager of a started answer; entered once its first content has arrived. Exit stops the generation.

        `deadline`: the time by which the answer must be complete. Entering raises a `CallerError` if the request is
        wrong, `EndpointUnreachable` while all endpoints are down or drained, `Overloaded` if the wait in the queue
        would take more than half of the time for the first content, or if all endpoints returned `Retry-After` beyond
        that time (`NotReady` if they are starting), or the `WorldError` of the last attempt. If the deadline passes
        later, iteration raises `GenerationInterrupted`.
        """
        async with AsyncExitStack() as stack:
            exchange = GenerationExchange(
                self._context, request, deadline=deadline, attempts=attempts
            )
            found = await self.client.start(exchange, stack, deadline=deadline, attempts=attempts)
            answer = found.result
            yield ProviderStream(
                origin=answer.origin,
                endpoint=found.endpoint,
                chunks=answer.chunks,
                continued=answer.continued,
            )

    async def context_tokens(self) -> int | None:
        """Always None: the context window is unknown, since the applications at different endpoints may differ."""
        return None

    async def run(self) -> None:
        """Probe endpoints that are down, have failed or of which nothing is known, until cancelled."""
        await self.client.run()

    async def status(self) -> ProviderStatus:
        """The state of this provider, derived from the states of its endpoints; takes at most two seconds.

        `up` if an endpoint is up, warming up or being tried, else `resting` if one is not used for a while after busy
        responses, else `unknown` if one has had no result yet or may be tried again after a failure, else `down`.
        Endpoints without a recent response are probed first.
        """
        found = await self.client.statuses()
        return ProviderStatus(
            name=self.name, state=_overall(found), detail=_summary(found), endpoints=found
        )

    async def aclose(self) -> None:
        """Close the connections of the HTTP pool, which the Ray and Ollama providers share. Safe to call twice."""
        await self._context.http.aclose()

    def drain(self, endpoint_id: str) -> bool:
        """Send no further requests to an endpoint until `reset` is called for it.

        `endpoint_id`: such as `ray-1`, the number in configured order. Requests in flight go on. Returns False for an
        unknown id.
        """
        return self.client.drain(endpoint_id)

    def reset(self, endpoint_id: str) -> bool:
        """Forget the recorded failures, busy waits and latency of an endpoint, and use it again, also after `drain`.

        `endpoint_id`: such as `ray-1`, the number in configured order. Returns False for an unknown id.
        """
        return self.client.reset(endpoint_id)


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
