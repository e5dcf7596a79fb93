from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import psutil
import pytest
from ray.dashboard.subprocesses.module import SubprocessModule
from ray.dashboard.utils import DashboardHeadModule, get_all_modules

from bootstrap.stack_bench import Recorder, free_port
from mongars.bootstrap.stack.child_process import Child, ChildSpec
from mongars.bootstrap.stack.ownership import owned_processes, stack_id, stop_owned
from mongars.bootstrap.stack.ray_head import RayHead
from mongars.bootstrap.stack.ray_hook import local_head
from mongars.core.clock import SystemClock
from mongars.core.errors import ConfigurationError
from mongars.serving.control import ServeControl
from mongars.serving.ray_start import DASHBOARD_MODULES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def head_of(home: Path) -> RayHead:
    """A head node on free ports, with the stack id of `home`."""
    return RayHead(
        python=sys.executable,
        stack=stack_id(home),
        port=free_port(),
        dashboard_port=free_port(),
        cpus=2,
    )


@pytest.fixture
def head(tmp_path: Path):
    """A head node that is not running; its folder is removed after the test."""
    head = head_of(tmp_path)
    yield head
    head.remove()


def test_the_folder_leaves_room_for_sockets(head):
    """The head's folder has a path of at most 36 bytes: Ray appends up to 70, and a socket path may have 107."""
    assert len(str(head.folder)) <= 36


def test_the_folder_is_emptied_at_a_start(head, tmp_path):
    """Preparing a start removes what an earlier run left in the head's folder and restricts its parent to the owner."""
    head.prepare(tmp_path / "logs")
    (head.folder / "session_old").mkdir()
    (head.folder / "ray_current_cluster").write_text("old")
    head.folder.parent.chmod(0o755)
    head.prepare(tmp_path / "logs")
    assert list(head.folder.iterdir()) == []
    assert head.folder.parent.stat().st_mode & 0o777 == 0o700


def test_a_link_under_that_name_is_refused(head, tmp_path):
    """If the folder's parent is a symbolic link, as another user could create, the start is refused."""
    head.folder.parent.symlink_to(tmp_path)
    try:
        with pytest.raises(ConfigurationError, match="another user"):
            head.prepare(tmp_path / "logs")
    finally:
        head.folder.parent.unlink()


def test_the_environment_cannot_point_elsewhere(head):
    """`RAY_ADDRESS` from outside is removed for the head and replaced by the head's own address for clients."""
    given = {**ENVIRONMENT, "RAY_ADDRESS": "ray://elsewhere:10001"}
    assert "RAY_ADDRESS" not in head.head_environment(given)
    assert head.client_environment(given)["RAY_ADDRESS"] == f"127.0.0.1:{head.port}"


def test_the_hook_leaves_the_client_server_out():
    """The start hook clears the port of Ray's client server, so that Ray does not start that server."""

    class Parameters:
        ray_client_server_port: int | None = 10001

    parameters = Parameters()
    local_head(parameters, True)
    assert parameters.ray_client_server_port is None


async def started(
    home: Path, environment: Mapping[str, str] = ENVIRONMENT
) -> tuple[RayHead, Child]:
    """A running head node with the given environment, and its child process."""
    head = head_of(home)
    head.prepare(home / "logs")
    spec = ChildSpec(
        name="ray",
        stack=head.stack,
        argv=head.argv,
        environment=head.head_environment(environment),
        log=home / "logs" / "ray.log",
        ready=head.ready,
        folders=(head.folder,),
    )
    child = Child(spec, clock=SystemClock(), listener=Recorder())
    await child.start()
    return head, child


def processes(head: RayHead) -> list[psutil.Process]:
    """All running processes of that cluster."""
    return owned_processes(head.stack, folders=[head.folder])


def listening(head: RayHead) -> set[str]:
    """The addresses that the processes of that cluster listen on."""
    found = set()
    for process in processes(head):
        with suppress(psutil.NoSuchProcess):  # a worker may exit meanwhile
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(connection.laddr[0].removeprefix("::ffff:"))
    return found


DRIVER = """
import ray
ray.init(log_to_driver=False, logging_level="ERROR")
@ray.remote
def where(): return ray.util.get_node_ip_address()
print(ray.get(where.remote()))
"""


def drive(head: RayHead, environment: Mapping[str, str] = ENVIRONMENT) -> str:
    """Run a Ray task on that cluster from a separate process. Returns the node's address."""
    return subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", DRIVER],
        env=head.client_environment(environment),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_two_clusters_run_side_by_side(tmp_path):
    """Two clusters work at once, listen on loopback only, and leave neither processes nor files."""
    async with asyncio.TaskGroup() as group:
        starts = [group.create_task(started(tmp_path / name)) for name in ("one", "two")]
    clusters = [start.result() for start in starts]
    try:
        for head, _ in clusters:
            assert await asyncio.to_thread(drive, head) == "127.0.0.1"
            assert listening(head) == {"127.0.0.1"}
            assert len(processes(head)) > 8
            assert any(path.name.startswith("pymp-") for path in head.folder.iterdir())
        (first, child), (second, other) = clusters
        report = await asyncio.to_thread(child.stop, grace=5)
        assert (report.killed, report.alive) == ((), ())
        assert processes(first) == []
        assert await second.ready()
        # The head is killed without cleaning up; the environments of its agents cannot be read.
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)
        await asyncio.to_thread(stop_owned, second.stack, grace=5, folders=[second.folder])
        assert processes(second) == []
    finally:
        for head, child in clusters:
            await asyncio.to_thread(child.stop, grace=1)
            head.remove()
    mine = [str(head.folder) for head, _ in clusters]
    strays = [
        p for p in psutil.process_iter(["cmdline"]) for m in mine if m in str(p.info["cmdline"])
    ]
    assert strays == []
    assert not any(head.folder.exists() for head, _ in clusters)


@asynccontextmanager
async def recording_proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """An HTTP proxy that refuses everything; yields its URL and the request lines that it received."""
    seen: list[str] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readline()).decode("latin-1").strip())
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_cluster_asks_nobody_outside(tmp_path, monkeypatch):
    """With a proxy in the environment, neither the cluster nor our calls to the cluster go through the proxy.

    Ray's usage report and cloud detection would; both are turned off.
    """
    async with recording_proxy() as (proxy, seen):
        names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        proxies = dict.fromkeys(names, proxy)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in names:
            monkeypatch.setenv(name, proxy)
        head, child = await started(tmp_path, {**ENVIRONMENT, **proxies})
        try:
            control = ServeControl(f"http://127.0.0.1:{head.dashboard_port}")
            state = await asyncio.to_thread(control.status)
            assert state.status == "NOT_STARTED"
            assert await asyncio.to_thread(drive, head, {**ENVIRONMENT, **proxies}) == "127.0.0.1"
        finally:
            await asyncio.to_thread(child.stop, grace=1)
            head.remove()
    assert seen == []


def test_every_dashboard_module_but_one_is_named():
    """The configured dashboard modules are all modules of the installed Ray except `UsageStatsHead`."""
    found = {
        module.__name__
        for kind in (DashboardHeadModule, SubprocessModule)
        for module in get_all_modules(kind)
    }
    assert found - set(DASHBOARD_MODULES) == {"UsageStatsHead"}
    assert set(DASHBOARD_MODULES) <= found
