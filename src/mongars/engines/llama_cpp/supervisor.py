"""A llama.cpp child that is always there: watched, killed when stuck, restarted when it dies."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import aiohttp

from mongars.core.background import Background
from mongars.core.errors import InferenceFailed, NotReady
from mongars.core.observe import Note, Observer, Silent
from mongars.engines.engine import EngineStatus
from mongars.engines.llama_cpp.process import LlamaCppProcess
from mongars.protocol.body import encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from typing import Any

    from mongars.core.clock import Clock
    from mongars.engines.llama_cpp.config import LlamaCppConfig

RESTART_PAUSE = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each restart in a row; the last one repeats."""
GIVE_UP_AFTER = 8
"""Failed restarts in a row; then the engine is `failed`, and whoever runs it must decide."""
STABLE_AFTER = 30.0
"""Seconds of life after which a death counts as the first again."""
RETRY_AFTER = 1.0
CHECK_PERIOD = 2.0
"""Seconds between two looks at whether the child still does its work."""
UNHEARD_CHECKS = 3
"""Health checks without an answer, one after another and without a token of any request between
them, that make a child a stuck one."""
HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=2)


class LlamaCppSupervisor:
    """Owns the child process and the way to it."""

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
        """The child alive now."""
        self._session: aiohttp.ClientSession | None = None
        self._watch = Background(self._watch_child, name="llama-cpp-watch")
        self._checks = Background(self._check_child, name="llama-cpp-checks")
        self._waits: dict[int, float] = {}
        self._heard_at = -math.inf
        """When the child last sent anything to a request."""
        self._open: set[aiohttp.ClientResponse] = set()
        self.status = EngineStatus(state="stopped")

    @property
    def session(self) -> aiohttp.ClientSession:
        """The way to the child. Raises `NotReady` while there is none."""
        if self._session is None or self.status.state != "ready":
            detail = f"The engine is {self.status.state}."
            raise NotReady(detail, retry_after=RETRY_AFTER)
        return self._session

    @contextmanager
    def waiting(self, who: object) -> Iterator[None]:
        """Held by a request while the next word is the child's to say."""
        self._waits[id(who)] = self._clock.monotonic()
        try:
            yield
            self._heard_at = self._clock.monotonic()
        finally:
            del self._waits[id(who)]

    @asynccontextmanager
    async def post(self, path: str, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask the child; leaving closes the connection. Raises `NotReady` while there is none."""
        session = self.session
        with self.waiting(body):
            response = await session.post(path, data=encode(body))
        self._open.add(response)
        try:
            if session is not self._session:  # dropped between the answer's head and this line
                response.close()
            yield response
        finally:
            self._open.discard(response)
            response.close()

    @property
    def silence(self) -> float:
        """Seconds since anybody who waits has heard a word; 0 while nobody waits."""
        if not self._waits:
            return 0.0
        return self._clock.monotonic() - max(self._heard_at, min(self._waits.values()))

    async def start(self) -> None:
        """Load the model. Raises `InferenceFailed` with the child's own words if it cannot."""
        self.status = EngineStatus(state="starting")
        try:
            await self._spawn()
        except InferenceFailed as error:
            self.status = EngineStatus(state="failed", detail=str(error))
            raise
        self._watch.start()
        self._checks.start()

    async def aclose(self) -> None:
        """Kill the child; nothing of it is left afterwards."""
        try:
            await self._checks.aclose()
            await self._watch.aclose()
        finally:
            self.status = EngineStatus(state="stopped", restarts=self.status.restarts)
            await self._drop_child()

    async def _spawn(self) -> None:
        child = await self._new_process(self._config)
        self.process = child
        self._session = aiohttp.ClientSession(
            "http://engine",
            # The engine drops idle connections at will: a fresh one costs microseconds here.
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
        # The session's own `close` leaves whoever reads an answer waiting for ever: `Response.close`
        # wakes them. Killing the child comes first, so that it works on for nobody.
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
            born = self._clock.monotonic()
            code = await self.process.wait()
            deaths = 1 if self._clock.monotonic() - born > STABLE_AFTER else deaths + 1
            last_words = self.process.last_words()
            self._say("engine.died", exit_code=code, last_words=last_words)
            restarts = self.status.restarts
            self.status = EngineStatus(state="restarting", detail=last_words, restarts=restarts)
            await self._drop_child()
            deaths = await self._revive(deaths, last_words)

    async def _revive(self, deaths: int, reason: str) -> int:
        restarts = self.status.restarts
        while self.process is None:
            if deaths > GIVE_UP_AFTER:
                self.status = EngineStatus(state="failed", detail=reason, restarts=restarts)
                self._say("engine.failed", detail=reason)
                return deaths
            restarts += 1
            self.status = EngineStatus(state="restarting", detail=reason, restarts=restarts)
            await self._clock.sleep(RESTART_PAUSE[min(deaths, len(RESTART_PAUSE)) - 1])
            try:
                await self._spawn()
            except InferenceFailed as error:
                deaths += 1
                reason = str(error)
                self._say("engine.restart_failed", detail=reason)
        self._say("engine.restarted", restarts=restarts)
        return deaths

    async def _check_child(self) -> None:
        """Kill a child that lives and does not work: the watch then starts another one.

        On a busy machine a child that generates answers its health check late: tokens count as well.
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
            if child is not looked_at:  # what its predecessor did not hear is not its fault
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
                self._say("engine.stuck", pid=child.pid, silent_seconds=round(silence, 1))
                child.kill()

    async def _healthy(self) -> bool:
        """Whether the child answers at all; a busy one does."""
        try:
            async with self.session.get("/health", timeout=HEALTH_TIMEOUT) as response:
                await response.read()
        except (NotReady, aiohttp.ClientError, OSError, TimeoutError):
            return False
        return True

    def _say(self, name: str, **values: str | float) -> None:
        self._observer.observe(Note(name=name, values=values))
