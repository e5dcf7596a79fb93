"""The local stack: starts all processes of `mongars up` in order, supervises them and stops them.

```
leftovers ─► ports ─► model ─┬─► ray ──────► serve (deploy) ─┬─► ready
                             └─► database ─► api ─► worker ──┘
```
Afterwards every child process is supervised, and restarted when it ends. When Ray's head node ends, the remaining
processes of its cluster are ended first, and the application is deployed again after the restart; meanwhile the
API answers with its embedded engine.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, repeat
from typing import TYPE_CHECKING, Self

from mongars.bootstrap.stack.child_process import Child, ChildSpec
from mongars.bootstrap.stack.config import Service
from mongars.bootstrap.stack.log_file import rotate
from mongars.bootstrap.stack.ownership import (
    StopReport,
    adopt_orphans,
    hold_home,
    reap_orphans,
    stack_id,
    stop_owned,
)
from mongars.bootstrap.stack.ports import check_ports
from mongars.bootstrap.stack.ray_head import RayHead
from mongars.bootstrap.stack.stack_events import Notice
from mongars.bootstrap.stack.stage import Stages
from mongars.core.background import Background
from mongars.core.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from mongars.bootstrap.stack.config import StackConfig, StackParts
    from mongars.bootstrap.stack.stack_events import Listener, Stage
    from mongars.core.clock import Clock

_DEPLOY_WITHIN_S = 180.0
_REDEPLOY_DELAYS_S = (0.5, 1.0, 2.0, 5.0)
_REDEPLOY_LAST_DELAY_S = 10.0
_REAP_S = 2.0
_ANSWERING_S, _LOOK_S = 5.0, 0.1
_GRACE_S = 4.0  # for the services, then again for Ray; stopping takes less than 15 s in total
_MOST_CPUS = 8  # Ray starts a worker process for each


class LocalStack:
    """The processes of `mongars up` (Ray, API, worker) as an asynchronous context: entering starts, leaving stops them.

    `id` identifies the processes; `stopping` is True once the stop has begun, and `report` contains its result.
    """

    def __init__(
        self, config: StackConfig, parts: StackParts, *, clock: Clock, listener: Listener
    ) -> None:
        self.config = config
        self.id = stack_id(config.home)
        self.report = StopReport()
        self.stopping = False
        self._parts = parts
        self._clock = clock
        self._listener = listener
        self._stages = Stages(clock=clock, listener=listener)
        self._hurry = threading.Event()
        self._held = ExitStack()
        self._services: list[Child] = []
        self._cluster: list[Child] = []
        self._watchers: list[Background] = []
        self._ray = RayHead(
            python=config.python,
            stack=self.id,
            port=config.ray_port,
            dashboard_port=config.ray_dashboard_port,
            token=config.ray_token,
            haproxy=config.haproxy,
            cpus=max(2, config.replicas + 1, min(_MOST_CPUS, os.cpu_count() or 1)),
        )

    async def __aenter__(self) -> Self:
        """Start all processes of the stack and wait until they are ready; if that fails, stop them again.

        Raises:
            ConfigurationError: another `mongars up` uses the home folder, or a port is in use.
            ProvisioningFailed: there is no base model.
            NotReady: a process did not start; contains the last lines of its log.
        """
        self._held.enter_context(hold_home(self.config.home))
        adopt_orphans()
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all processes; `report` then contains how many, and which could not be stopped."""
        await self._stop()

    async def wait(self) -> None:
        """Wait until cancelled, while the child processes are supervised and restarted when they end.

        Raises an `ExceptionGroup` if the supervision itself fails.
        """
        async with asyncio.TaskGroup() as group:
            for watcher in self._watchers:
                group.create_task(watcher.finished())

    def hurry(self) -> None:
        """Make the stop of the stack, now or later, kill every process that has not ended yet, without waiting."""
        self._hurry.set()

    async def _start(self) -> None:
        with self._stages.stage("leftovers") as outcome:
            outcome.detail = await self._end_leftovers()
        with self._stages.stage("ports"):
            check_ports(self.config.ports())
        await self._stages.work("model", self._parts.provision)
        try:
            async with asyncio.TaskGroup() as group:
                if self.config.use_ray:
                    group.create_task(self._start_ray())
                group.create_task(self._start_services())
        except BaseExceptionGroup as failures:
            # One part failed and the others were cancelled because of it: raise its error only.
            raise _first(failures) from None
        if self.config.use_ray:
            await self._wait_for_answers()
        self._watch(self._reap, name="orphans")

    async def _wait_for_answers(self) -> None:
        """Wait up to 5 seconds until the API can answer by the Serve application.

        If it still cannot, report to the listener that the API answers by a fallback.
        """
        for _ in range(round(_ANSWERING_S / _LOOK_S)):
            if await self._parts.answering():
                return
            await self._clock.sleep(_LOOK_S)
        self._listener(Notice(text="The API answers by a fallback; see `mongars status`."))

    async def _end_leftovers(self) -> str:
        folders = (self._ray.folder,)
        report = await asyncio.to_thread(stop_owned, self.id, grace=_GRACE_S, folders=folders)
        return f"stopped {report.stopped} left by an earlier run" if report.stopped else "none"

    async def _start_ray(self) -> None:
        with self._stages.stage("ray"):
            self._ray.prepare(self.config.logs)
            head = Child(self._ray_spec(), clock=self._clock, listener=self._listener)
            self._cluster.append(head)
            await head.start()
        with self._stages.stage("serve"):
            await self._deploy()
        self._watch(head.supervise, name="ray")

    def _ray_spec(self) -> ChildSpec:
        return replace(
            self._spec("ray", Service(argv=self._ray.argv, ready=self._ray.ready)),
            environment=self._ray.head_environment(self.config.environment),
            folders=(self._ray.folder,),
            revived=self._deploy_again,
        )

    async def _start_services(self) -> None:
        await self._stages.work("database", self._parts.migrate)
        await self._start_service("api", self._parts.api)
        if self._parts.worker is not None:
            await self._start_service("worker", self._parts.worker)

    async def _start_service(self, name: Stage, service: Service) -> None:
        with self._stages.stage(name):
            child = Child(self._spec(name, service), clock=self._clock, listener=self._listener)
            self._services.append(child)
            await child.start()
        self._watch(child.supervise, name=name)

    async def _deploy(self) -> None:
        child = Child(
            self._spec("deploy", self._parts.deploy), clock=self._clock, listener=_unheard
        )
        self._services.append(child)
        try:
            await child.run_to_end(within=_DEPLOY_WITHIN_S)
        finally:
            self._services.remove(child)
            await asyncio.to_thread(child.stop, grace=0.5)

    async def _deploy_again(self) -> None:
        """Deploy the Serve application to the restarted Ray cluster, and repeat until that succeeds.

        The delay between attempts grows from 0.5 to 10 seconds; each failure is reported to the listener.
        """
        for delay in chain(_REDEPLOY_DELAYS_S, repeat(_REDEPLOY_LAST_DELAY_S)):
            try:
                await self._deploy()
            except NotReady as error:
                self._listener(Notice(text=f"Deploying again failed: {error}", serious=True))
                await self._clock.sleep(delay)
            else:
                self._listener(Notice(text="The application is deployed again."))
                return

    def _spec(self, name: str, service: Service) -> ChildSpec:
        environment = self.config.environment
        if self.config.use_ray:
            environment = self._ray.client_environment(environment)
        return ChildSpec(
            name=name,
            stack=self.id,
            argv=service.argv,
            environment={**environment, **service.secrets},
            log=self.config.logs / f"{name}.log",
            ready=service.ready,
            ready_within=service.ready_within,
        )

    def _watch(self, work: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        watcher = Background(work, name=f"stack-{name}")
        watcher.start()
        self._watchers.append(watcher)

    async def _reap(self) -> None:
        """Every 2 seconds, until cancelled: collect the exit status of orphaned processes, and rotate the logs."""
        while True:
            await self._clock.sleep(_REAP_S)
            self._reap_now()
            for child in (*self._services, *self._cluster):
                await asyncio.to_thread(rotate, child.spec.log)

    def _reap_now(self) -> None:
        children = (*self._services, *self._cluster)
        reap_orphans(except_for={child.pid for child in children if child.pid})

    async def _stop(self) -> None:
        self.stopping = True
        self._stages.abandon()
        with self._stages.stage("stop") as outcome:
            for watcher in self._watchers:
                if watcher.running:
                    await watcher.aclose()
            # Answers in progress need Ray, so Ray is stopped last.
            await self._stop_all(self._services)
            await self._stop_all(self._cluster)
            await self._sweep()
            outcome.detail = _describe(self.report)
        self._held.close()

    async def _stop_all(self, children: list[Child]) -> None:
        async with asyncio.TaskGroup() as group:
            stops = [
                group.create_task(asyncio.to_thread(child.stop, grace=_GRACE_S, hurry=self._hurry))
                for child in children
            ]
        for stop in stops:
            self.report += stop.result()

    async def _sweep(self) -> None:
        """End the stack's remaining processes, such as children that were being restarted; remove Ray's folders.

        The folders stay if a process cannot be ended.
        """
        folders = (self._ray.folder,)
        self.report += await asyncio.to_thread(
            stop_owned, self.id, grace=0.5, folders=folders, hurry=self._hurry
        )
        self._reap_now()
        if not self.report.alive:
            self._ray.remove()


def _describe(report: StopReport) -> str:
    if report.alive:
        return f"still alive: {', '.join(report.alive)}"
    if report.killed:
        return f"had to kill {', '.join(report.killed)}"
    return "nothing is left"


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _unheard(event: object) -> None:
    del event
