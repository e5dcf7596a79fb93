"""Background probes, which detect without a client's request that an endpoint is reachable again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mongars.core.errors import WorldError
from mongars.inference.endpoints.route_url import route_url
from mongars.inference.events import EndpointChanged, split_label
from mongars.inference.retry.failures import TOO_MANY_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from mongars.core.clock import Clock
    from mongars.core.observe import Observer
    from mongars.inference.config import InferenceConfig
    from mongars.inference.endpoints.pool import EndpointPool
    from mongars.inference.endpoints.probes import ProbeResult
    from mongars.inference.http.http_pool import HttpPool

PROBE_CYCLE_SECONDS = 0.5
"""Seconds between checks of which endpoints are due; `EndpointProbes` sets the interval of each endpoint."""

PROBE_TIMEOUT_SECONDS = 1.5
READINESS_PATH = "/readyz"


class Prober:
    """Sends background probes to Ray endpoints that are down, have failed or of which nothing is known.

    A probe is a GET of the readiness route `/readyz` of the endpoint's application.
    """

    def __init__(
        self,
        pool: EndpointPool,
        http: HttpPool,
        *,
        config: InferenceConfig,
        clock: Clock,
        observer: Observer,
        random: Callable[[], float],
    ) -> None:
        self._probes = pool.probes
        self._http = http
        self._busy = config.scaling_status_codes | {TOO_MANY_REQUESTS}
        self._clock = clock
        self._observer = observer
        self._random = random

    async def run(self, after_cycle: Callable[[], None]) -> NoReturn:
        """About every 0.5 s, probe the endpoints that need it, until cancelled.

        Those are endpoints that are down, that failed since their last answer or probe, or that were never used, each
        at most every 2 s (0.5 s while it starts). `after_cycle` is called after each round of probes.
        """
        while True:
            await self.probe(self._probes.due())
            after_cycle()
            await self._clock.sleep(PROBE_CYCLE_SECONDS * (0.8 + 0.4 * self._random()))

    async def probe(self, urls: Iterable[str]) -> None:
        """Probe the endpoints `urls` concurrently, and record the results in their states; takes at most 1.5 s."""
        async with asyncio.TaskGroup() as group:
            for url in urls:
                group.create_task(self._probe(url))

    async def _probe(self, url: str) -> None:
        result, detail = await self._request(route_url(url, READINESS_PATH))
        if self._probes.record(url, result, error=detail):
            host, path = split_label(url)
            self._observer.observe(
                EndpointChanged(
                    endpoint=host,
                    path=path,
                    state="reachable" if result in {"ready", "reachable"} else "down",
                    detail=detail,
                )
            )

    async def _request(self, url: str) -> tuple[ProbeResult, str | None]:
        """GET `url`, and return the result of the probe, with the reason as text if it is `unreachable`, else None.

        `unreachable` without a valid response within 1.5 s, `not_ready` for status 429, 5xx or a configured busy
        status, `ready` for 2xx, `reachable` for any other.
        """
        try:
            status, _ = await self._http.get(url, seconds=PROBE_TIMEOUT_SECONDS)
        except WorldError as error:
            return "unreachable", str(error)
        if status >= 500 or status in self._busy:  # noqa: PLR2004
            return "not_ready", None
        return "ready" if status < 300 else "reachable", None  # noqa: PLR2004
