"""Starts engines when a request needs them and stops them when idle.

The start is executed by `StartOnDemand.run`, not by the request that needs the engine: cancelling that
request does not stop the start, and other requests wait for the same start.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from mongars.core.errors import NotReady, WorldError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mongars.engines.engine import EngineStatus

IDLE_SECONDS = 300.0
"""Seconds without a request after which engines are stopped and their memory is released."""


class Startable(Protocol):
    """What `StartOnDemand` starts: an engine that generates, or an embedder."""

    @property
    def status(self) -> EngineStatus:
        """The current state of the engine, such as `stopped`, `starting` or `ready`."""
        ...

    async def start(self) -> None:
        """Start the engine; returns once it accepts requests. Raises a `WorldError` if it cannot be started."""
        ...


class StartOnDemand:
    """Starts the engines of one provider when a request needs them, one at a time, and stops them when all are idle.

    A request awaits `ready` before it uses an engine, and calls `record_use` when it ends; `run` does the work.
    """

    def __init__(
        self, stop_unused: Callable[[], Awaitable[None]], *, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """`stop_unused`: coroutine function that stops all engines that have no request.

        `idle_seconds`: it is called after that many seconds (by default 300) without any request, or up to half as long
        later.
        """
        self._stop_unused = stop_unused
        self._idle_seconds = idle_seconds
        self._used_at = 0.0
        self._changing = asyncio.Lock()
        self._to_start: asyncio.Queue[Startable] = asyncio.Queue()
        self._starts: dict[Startable, asyncio.Future[WorldError | None]] = {}
        """Result of each start in progress or queued: None for success, or the error."""

    def record_use(self) -> None:
        """Record that a request has ended; the idle time of the engines is counted from now."""
        self._used_at = asyncio.get_running_loop().time()

    async def ready(self, engine: Startable) -> None:
        """Wait until the engine accepts requests; if it is stopped, `run` starts it.

        Returns at once if it is ready or restarting. Raises the `WorldError` of a failed start, and `NotReady` if `run`
        ends before the start is complete.
        """
        async with self._changing:  # held for long only while the engines are being stopped
            if engine.status.state in {"ready", "restarting"}:
                return  # while it restarts, the engine itself raises `NotReady`
            started = self._starts.get(engine)
            if started is None:
                started = asyncio.get_running_loop().create_future()
                self._starts[engine] = started
                self._to_start.put_nowait(engine)
        error = await asyncio.shield(started)
        if error is not None:
            raise error

    async def run(self) -> None:
        """Start the engines that `ready` waits for, one at a time, and stop idle engines, until cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._idle_seconds / 2):
                        engine = await self._to_start.get()
                except TimeoutError:
                    await self._stop_if_idle()
                    continue
                if engine in self._starts:  # else an earlier `run` has set its result at its end
                    self._finish_start(engine, await _start(engine))
        finally:
            for engine in tuple(self._starts):
                self._finish_start(engine, NotReady("The embedded engine is being shut down."))

    async def _stop_if_idle(self) -> None:
        async with self._changing:
            # A request that arrives from here on waits in `ready` until the engines are stopped.
            if asyncio.get_running_loop().time() - self._used_at >= self._idle_seconds:
                await self._stop_unused()

    def _finish_start(self, engine: Startable, outcome: WorldError | None) -> None:
        self._starts.pop(engine).set_result(outcome)


async def _start(engine: Startable) -> WorldError | None:
    try:
        await engine.start()
    except WorldError as error:
        return error
    return None
