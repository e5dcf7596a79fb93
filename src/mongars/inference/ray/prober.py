"""The background probe: finds out that an endpoint is back, so that no user's request has to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from mongars.core.errors import WorldError
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
    from mongars.inference.http.pool import HttpPool

PROBE_CYCLE_SECONDS = 0.5
"""How often it is checked what is due; each endpoint is visited every couple of seconds."""

PROBE_SECONDS = 1.5


class Prober:
    """Visits the endpoints that are down, or that nobody has heard of yet."""

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
        self._pool = pool
        self._http = http
        self._busy = config.scaling_status_codes | {TOO_MANY_REQUESTS}
        self._clock = clock
        self._observer = observer
        self._random = random

    async def run(self, looked: Callable[[], None]) -> NoReturn:
        """Probe whatever is due, until cancelled; `looked` is told after each round."""
        while True:
            await self.visit(self._pool.probes.due())
            looked()
            await self._clock.sleep(PROBE_CYCLE_SECONDS * (0.8 + 0.4 * self._random()))

    async def visit(self, urls: Iterable[str]) -> None:
        """Probe these, at the same time."""
        async with asyncio.TaskGroup() as group:
            for url in urls:
                group.create_task(self._probe(url))

    async def _probe(self, url: str) -> None:
        found, detail = await self._look(readiness_url(url))
        if self._pool.probes.record(url, found, error=detail):
            host, path = split_label(url)
            self._observer.observe(
                EndpointChanged(
                    endpoint=host,
                    path=path,
                    state="reachable" if found in {"ready", "reachable"} else "down",
                    detail=detail,
                )
            )

    async def _look(self, url: str) -> tuple[ProbeResult, str | None]:
        """What was found, and why nothing was."""
        try:
            status, _ = await self._http.get(url, seconds=PROBE_SECONDS)
        except WorldError as error:
            return "unreachable", str(error)
        if status >= 500 or status in self._busy:  # noqa: PLR2004
            return "not_ready", None
        return "ready" if status < 300 else "reachable", None  # noqa: PLR2004


def readiness_url(endpoint: str) -> str:
    """The readiness route beside an endpoint: `/generate` and `/readyz` are siblings."""
    parts = urlsplit(endpoint)
    folder = parts.path.rstrip("/").rpartition("/")[0]
    return urlunsplit((parts.scheme, parts.netloc, f"{folder}/readyz", "", ""))
