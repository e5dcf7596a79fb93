"""A real Ray cluster of one node, for tests and measurements; its processes and files are removed afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mongars.bootstrap.stack.ownership import owned_processes, stack_id, stop_owned
from mongars.bootstrap.stack.ray_head import RayHead
from mongars.core.clock import SystemClock
from mongars.serving.control import ServeControl
from mongars.settings import child_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mongars.serving.config import ServingConfig

CLOCK = SystemClock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running Ray cluster of one node, for tests; `ray_cluster` creates it.

    `http_port` is that of Serve's HTTP proxy on 127.0.0.1, `dashboard` the URL of Ray's dashboard, `control` deploys
    applications. `stack` is the id that the cluster's processes have in their environment, `folder` Ray's temporary
    folder.
    """

    http_port: int
    dashboard: str
    control: ServeControl
    stack: str
    folder: Path

    @property
    def url(self) -> str:
        """The base URL of the cluster's Serve HTTP proxy, at which deployed applications are reached."""
        return f"http://127.0.0.1:{self.http_port}"

    def processes(self, part: str) -> list[psutil.Process]:
        """The cluster's running processes whose command line contains `part`."""
        found = []
        for process in owned_processes(self.stack, folders=(self.folder,)):
            with contextlib.suppress(psutil.Error):
                if part in " ".join(process.cmdline()):
                    found.append(process)
        return found

    async def deploy(self, config: ServingConfig) -> float:
        """Deploy an application on this cluster's HTTP port; returns the seconds until its status is HEALTHY.

        Raises `InferenceFailed` if the deployment fails, `DeadlineExceeded` if it takes more than 180 seconds, and
        another `MongarsError` if the dashboard cannot be reached or refuses the configuration.
        """
        began = CLOCK.monotonic()
        placed = config.model_copy(update={"port": self.http_port})
        await asyncio.to_thread(
            self.control.deploy, placed, timeout=180, on_progress=lambda _: None
        )
        return CLOCK.monotonic() - began


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports of 127.0.0.1 on which no process listens at the moment."""
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@asynccontextmanager
async def ray_cluster(
    cpus: int, variables: Mapping[str, str] | None = None, *, haproxy: bool = False
) -> AsyncIterator[Cluster]:
    """A context manager that runs a Ray head node with `cpus` CPUs; on exit, its processes and files are removed.

    It gives the `Cluster` once the node is ready. `variables` are environment variables for all processes of the
    cluster; `haproxy` makes Serve use HAProxy. Raises `TimeoutError` if the node is not ready within 90 seconds.
    """
    port, dashboard, http = free_ports(3)
    with tempfile.TemporaryDirectory() as folder:
        stack = stack_id(Path(folder))
        head = RayHead(
            python=sys.executable,
            stack=stack,
            port=port,
            dashboard_port=dashboard,
            cpus=cpus,
            haproxy=haproxy,
        )
        head.prepare(Path(folder) / "logs")
        environment = child_environment({"MONGARS_STACK_ID": stack, **(variables or {})})
        with (Path(folder) / "ray.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603, ASYNC220 (our own command; returns at once)
                head.argv, env=head.head_environment(environment), stdout=log, stderr=log
            )
        try:
            async with asyncio.timeout(90):
                while not await head.ready():
                    await CLOCK.sleep(0.1)
            address = f"http://127.0.0.1:{dashboard}"
            yield Cluster(
                http_port=http,
                dashboard=address,
                control=ServeControl(address),
                stack=stack,
                folder=head.folder,
            )
        finally:
            await asyncio.to_thread(stop_owned, stack, grace=5, folders=(head.folder,))
            process.wait(timeout=10)
            head.remove()
