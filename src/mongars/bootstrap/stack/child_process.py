"""One supervised child process: started, watched, restarted when it ends, stopped with its descendants.

```
start() ── probe succeeds ──► ready ── exits ──► crashed ── wait ──► started ── … (supervise())
   └─ exits or takes too long ──► NotReady, with the end of its log
```
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from mongars.bootstrap.stack.log_file import last_line, open_log, tail
from mongars.bootstrap.stack.ownership import (
    PART_VARIABLE,
    STACK_VARIABLE,
    StopReport,
    end_processes,
    stop_owned,
)
from mongars.bootstrap.stack.stack_events import ChildEvent
from mongars.core.errors import NotReady

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from pathlib import Path

    from mongars.bootstrap.stack.stack_events import ChildState, Listener
    from mongars.core.clock import Clock

Probe = Callable[[], Awaitable[bool]]

_PROBE_S = 0.1
_EXIT_POLL_S = 0.1
_FIRST_DELAY_S, _LAST_DELAY_S = 0.5, 10.0
_HEALTHY_S = 60.0  # a crash after that many seconds resets the restart delay


async def at_once() -> bool:
    """A readiness probe that always succeeds, for a child process that is ready as soon as it runs."""
    return True


async def nothing() -> None:
    """Do nothing; the default for the functions `clean_up` and `revived` of a `ChildSpec`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A child process to run: command line, environment, log file, and the probe that returns True once it is ready.

    `stack` is the id of the stack it belongs to. `environment` is complete: nothing else is inherited. If `ready` has
    not returned True within `ready_within` seconds, the start fails. `folders` are private to this child: every process
    that writes there belongs to it. `clean_up` runs after a crash, when every process of the child has ended; `revived`
    after the restarted child is ready.
    """

    name: str
    stack: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    ready: Probe = at_once
    ready_within: float = 60.0
    folders: tuple[Path, ...] = ()
    clean_up: Callable[[], Awaitable[None]] = nothing
    revived: Callable[[], Awaitable[None]] = nothing


class Child:
    """Starts, supervises and stops the child process that `spec` describes.

    Calls `listener` with a `ChildEvent` for each change of its state.
    """

    def __init__(self, spec: ChildSpec, *, clock: Clock, listener: Listener) -> None:
        self.spec = spec
        self._clock = clock
        self._listener = listener
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the child process; None if it is not running."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the child process and wait until it is ready.

        Raises:
            NotReady: it ended, or was not ready within `ready_within` seconds; contains the last lines of its log.
        """
        process = self._spawn()
        if not await self._becomes_ready(process):
            ended = process.returncode is not None
            how = f"ended with {process.returncode}" if ended else "does not answer"
            raise self._failed(how=f"did not get ready: it {how}")

    async def supervise(self) -> None:
        """Restart the child process whenever it ends, until cancelled; call `start` before.

        The delay before a restart doubles from 0.5 to 10 seconds; it is 0.5 seconds again after the process ran for a
        minute. The number of restarts is not limited.
        """
        delay = _FIRST_DELAY_S
        while process := self._process:
            began = self._clock.monotonic()
            code = await self._exit_of(process)
            await asyncio.to_thread(self._end_rest)
            self._tell("crashed", code=code, detail=last_line(self.spec.log))
            delay = _FIRST_DELAY_S if self._clock.monotonic() - began > _HEALTHY_S else delay
            await self.spec.clean_up()
            self._tell("restarting", delay=delay)
            await self._clock.sleep(delay)
            delay = min(_LAST_DELAY_S, delay * 2)
            await self._revive()

    async def run_to_end(self, *, within: float) -> None:
        """Start a child process that is expected to end by itself, and wait at most `within` seconds for that.

        Raises:
            NotReady: its exit status was not 0, or it was stopped after `within` seconds; contains the end of its log.
        """
        process = self._spawn()
        try:
            async with asyncio.timeout(within):
                code = await self._exit_of(process)
        except TimeoutError:
            await asyncio.to_thread(self.stop, grace=1.0)
            raise self._failed(how=f"did not end within {within:.0f} s") from None
        if code != 0:
            raise self._failed(how=f"ended with {code}")

    def stop(self, *, grace: float, hurry: threading.Event | None = None) -> StopReport:
        """End the child process and its descendants: SIGTERM, after `grace` seconds or once `hurry` is set SIGKILL.

        `hurry` None: always after `grace` seconds. Blocks until they have ended; a process that still runs 3 seconds
        after SIGKILL is named in the report. The report is empty if the child was not started.
        """
        process, report = self._process, StopReport()
        if process is None:
            return report
        with contextlib.suppress(psutil.Error):
            tree = psutil.Process(process.pid).children(recursive=True)
            # The child itself first, so that it can end its own children cleanly.
            report += end_processes([psutil.Process(process.pid)], grace=grace, hurry=hurry)
            report += end_processes(tree, grace=min(1.0, grace), hurry=hurry)
        report += self._end_rest(grace=min(1.0, grace))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        self._tell("stopped", forced=bool(report.killed))
        self._process = None
        return report

    def _spawn(self) -> subprocess.Popen[bytes]:
        spec = self.spec
        marks = {STACK_VARIABLE: spec.stack, PART_VARIABLE: spec.name}
        with open_log(spec.log) as log:
            self._process = subprocess.Popen(  # noqa: S603 - an argument list made by us
                spec.argv,
                env={**spec.environment, **marks},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal signals this process only
            )
        self._tell("started")
        return self._process

    async def _becomes_ready(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = self._clock.monotonic() + self.spec.ready_within
        while process.poll() is None and self._clock.monotonic() < deadline:
            if await self.spec.ready() and process.poll() is None:
                self._tell("ready")
                return True
            await self._clock.sleep(_PROBE_S)
        return False

    async def _revive(self) -> None:
        """Start the child process again and wait until it is ready or has ended.

        If it is not ready within `spec.ready_within` seconds, it is killed.
        """
        process = self._spawn()
        async with asyncio.TaskGroup() as group:
            coming = group.create_task(self._come_back(process))
            while not coming.done() and process.poll() is None:
                await self._clock.sleep(_EXIT_POLL_S)
            coming.cancel()

    async def _come_back(self, process: subprocess.Popen[bytes]) -> None:
        if await self._becomes_ready(process):
            await self.spec.revived()
        elif process.poll() is None:
            process.kill()  # it hangs; `supervise` then restarts it

    async def _exit_of(self, process: subprocess.Popen[bytes]) -> int:
        while (code := process.poll()) is None:
            await self._clock.sleep(_EXIT_POLL_S)
        return code

    def _end_rest(self, *, grace: float = 1.0) -> StopReport:
        spec = self.spec
        return stop_owned(spec.stack, part=spec.name, folders=spec.folders, grace=grace)

    def _failed(self, *, how: str) -> NotReady:
        log = self.spec.log
        return NotReady(f"{self.spec.name} {how}. The end of {log}:\n{tail(log)}")

    def _tell(
        self,
        state: ChildState,
        *,
        code: int | None = None,
        delay: float | None = None,
        detail: str = "",
        forced: bool = False,
    ) -> None:
        self._listener(
            ChildEvent(
                child=self.spec.name,
                state=state,
                pid=self._process.pid if self._process else None,
                code=code,
                delay=delay,
                detail=detail,
                forced=forced,
            )
        )
