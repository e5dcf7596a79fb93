"""Supervise the llama.cpp child process: kill it when it hangs, restart it when it has ended."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import aiohttp

from mongars.core.background import Background
from mongars.core.errors import InferenceFailed, NotReady
from mongars.core.observe import Note, Observer, Silent
from mongars.engines import log_events
from mongars.engines.engine import EngineStatus
from mongars.engines.llama_cpp.process import LlamaCppProcess
from mongars.protocol.body import encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from typing import Any

    from mongars.core.clock import Clock
    from mongars.core.observe import LogEvent
    from mongars.engines.llama_cpp.config import LlamaCppConfig

RESTART_PAUSE = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the first, second, ... of consecutive restarts; the last value repeats."""
GIVE_UP_AFTER = 8
"""Consecutive failed restarts after which the engine's state is `failed` and it is not restarted again."""
STABLE_AFTER = 30.0
"""Seconds that a process must run for the count of consecutive failures to be reset."""
RETRY_AFTER = 1.0
CHECK_PERIOD = 2.0
"""Seconds between two health checks."""
UNHEARD_CHECKS = 3
"""Consecutive failed health checks, without any output for a request between them, after which the child is killed."""
HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=2)


class LlamaCppSupervisor:
    """Runs the llama.cpp child process of one engine, restarts it when it ends or hangs, and sends requests to it.

    It hangs if requests get no output for the configured `stuck_after` seconds, or if 3 health checks in a row fail
    without any output for a request between them; it is then killed. Restarts begin 0 to 5 seconds after the end.
    After 8 restarts in a row that failed or did not last 30 seconds, the state is `failed`, and it is not restarted
    again. `observer` receives the log events; None: they are discarded. `spawn` starts a process for a configuration
    and returns it; by default that is `LlamaCppProcess.spawn`.
    """

    def __init__(
        self,
        config: LlamaCppConfig,
        *,
        clock: Clock,
        observer: Observer | None = None,
        spawn: Callable[[LlamaCppConfig], Awaitable[LlamaCppProcess]] = LlamaCppProcess.spawn,
    ) -> None:
        self._config = config
        self._new_process = spawn
        self._clock = clock
        self._observer = observer or Silent()
        self.process: LlamaCppProcess | None = None
        """The running child process; None if there is none."""
        self._session: aiohttp.ClientSession | None = None
        self._watch = Background(self._watch_child, name="llama-cpp-watch")
        self._checks = Background(self._check_child, name="llama-cpp-checks")
        self._waits: dict[int, float] = {}
        self._heard_at = -math.inf
        """When the child last sent output for a request, on the monotonic clock."""
        self._open: set[aiohttp.ClientResponse] = set()
        self.status = EngineStatus(state="stopped")

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP session with the child process; its requests take URL paths, such as `/health`.

        Raises `NotReady` while the child process is not ready.
        """
        if self._session is None or self.status.state != "ready":
            detail = f"The engine is {self.status.state}."
            raise NotReady(detail, retry_after=RETRY_AFTER)
        return self._session

    @contextmanager
    def waiting(self, who: object) -> Iterator[None]:
        """A context during which a request waits for output of the child process; used to detect that the child hangs.

        Leaving it without an exception means that output has arrived. `who` is any object that identifies the request.
        """
        self._waits[id(who)] = self._clock.monotonic()
        try:
            yield
            self._heard_at = self._clock.monotonic()
        finally:
            del self._waits[id(who)]

    @asynccontextmanager
    async def post(self, path: str, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """POST a JSON `body` to the URL path `path` of the child process; leaving the context closes the connection.

        Yields the response, whatever its status, once its head has arrived. There is no time limit, but a child process
        that hangs is killed, which ends the connection.

        Raises `NotReady` while the child process is not ready, `aiohttp.ClientError` or `OSError` if the connection
        fails.
        """
        session = self.session
        with self.waiting(body):
            response = await session.post(path, data=encode(body))
        self._open.add(response)
        try:
            if session is not self._session:  # the child was dropped after the head of the response
                response.close()
            yield response
        finally:
            self._open.discard(response)
            response.close()

    @property
    def silence(self) -> float:
        """Seconds for which requests have waited without any output of the child process.

        Counted from its last output, or, if that is later, from when the longest-waiting request began to wait. 0 while
        no request waits.
        """
        if not self._waits:
            return 0.0
        return self._clock.monotonic() - max(self._heard_at, min(self._waits.values()))

    async def start(self) -> None:
        """Start the child process, load the model and begin to supervise the process.

        Raises `InferenceFailed` if the model cannot be loaded (with the end of the child's standard error) or takes
        longer than the configured `start_timeout`; it is not tried again.
        """
        self.status = EngineStatus(state="starting")
        try:
            await self._spawn()
        except InferenceFailed as error:
            self.status = EngineStatus(state="failed", detail=str(error))
            raise
        self._watch.start()
        self._checks.start()

    async def aclose(self) -> None:
        """Stop the supervision, kill the child process and remove its socket. Safe to call twice.

        Open responses are cut.
        """
        try:
            async with AsyncExitStack() as closing:
                closing.push_async_callback(self._watch.aclose)
                await self._checks.aclose()
        finally:
            self.status = EngineStatus(state="stopped", restarts=self.status.restarts)
            await self._drop_child()

    async def _spawn(self) -> None:
        child = await self._new_process(self._config)
        self.process = child
        self._session = aiohttp.ClientSession(
            "http://engine",
            # The engine closes idle connections at any time; a new one costs microseconds here.
            connector=aiohttp.UnixConnector(str(child.socket_path), limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={
                "Authorization": f"Bearer {child.api_key}",
                "Content-Type": "application/json",
            },
        )
        self.status = EngineStatus(state="ready", restarts=self.status.restarts, pid=child.pid)

    async def _drop_child(self) -> None:
        session, self._session = self._session, None
        child, self.process = self.process, None
        # `ClientSession.close` leaves readers of a response waiting forever; closing the responses ends
        # them. The child is killed first, so that it does not go on generating.
        if child is not None:
            child.kill()
        for response in tuple(self._open):
            response.close()
        try:
            if child is not None:
                await child.aclose()
        finally:
            if session is not None:
                await session.close()

    async def _watch_child(self) -> None:
        deaths = 0
        while self.process is not None and self.status.state != "failed":
            started_at = self._clock.monotonic()
            code = await self.process.wait()
            deaths = 1 if self._clock.monotonic() - started_at > STABLE_AFTER else deaths + 1
            last_error = self.process.last_error()
            self._emit(log_events.ENGINE_DIED, exit_code=code, last_error=last_error)
            restarts = self.status.restarts
            self.status = EngineStatus(state="restarting", detail=last_error, restarts=restarts)
            await self._drop_child()
            deaths = await self._revive(deaths, last_error)

    async def _revive(self, deaths: int, reason: str) -> int:
        restarts = self.status.restarts
        while self.process is None:
            if deaths > GIVE_UP_AFTER:
                self.status = EngineStatus(state="failed", detail=reason, restarts=restarts)
                self._emit(log_events.ENGINE_FAILED, detail=reason)
                return deaths
            restarts += 1
            self.status = EngineStatus(state="restarting", detail=reason, restarts=restarts)
            await self._clock.sleep(RESTART_PAUSE[min(deaths, len(RESTART_PAUSE)) - 1])
            try:
                await self._spawn()
            except InferenceFailed as error:
                deaths += 1
                reason = str(error)
                self._emit(log_events.ENGINE_RESTART_FAILED, detail=reason)
        self._emit(log_events.ENGINE_RESTARTED, restarts=restarts)
        return deaths

    async def _check_child(self) -> None:
        """Check the child process every 2 seconds and kill it if it hangs; `_watch_child` then starts another one.

        It hangs if 3 consecutive health checks fail and no request gets output between them, or if requests have
        waited more than the configured `stuck_after` seconds without any output. (On a busy machine a child that
        generates responds late to health checks.)
        """
        unheard = 0
        checked_at = self._clock.monotonic()
        looked_at: LlamaCppProcess | None = None
        while self.status.state != "failed":
            await self._clock.sleep(CHECK_PERIOD)
            child = self.process
            if child is None or self.status.state != "ready":
                unheard = 0
                continue
            if child is not looked_at:  # failures of the previous child do not count
                looked_at, unheard = child, 0
            healthy = await self._healthy()
            if child is not self.process:
                continue
            heard = healthy or self._heard_at >= checked_at
            checked_at = self._clock.monotonic()
            unheard = 0 if heard else unheard + 1
            silence = self.silence
            if unheard >= UNHEARD_CHECKS or silence > self._config.stuck_after:
                unheard = 0
                self._emit(log_events.ENGINE_STUCK, pid=child.pid, silent_seconds=round(silence, 1))
                child.kill()

    async def _healthy(self) -> bool:
        """Whether the child process responds to `GET /health` within 2 seconds, with any status."""
        try:
            async with self.session.get("/health", timeout=HEALTH_TIMEOUT) as response:
                await response.read()
        except (NotReady, aiohttp.ClientError, OSError, TimeoutError):
            return False
        return True

    def _emit(self, log: LogEvent, **values: str | float) -> None:
        self._observer.observe(Note(log=log, values=values))
