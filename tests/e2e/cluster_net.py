"""The networks of a test cluster's nodes: a network namespace each, or separate ports on loopback.

In a namespace a node has its own address, ports and processes, like a machine: it is started with the commands
of the guide and ended as if its power failed. That needs root and `ip` (iproute2). Elsewhere the nodes share the
loopback interface: each has its own address of 127.0.0.0/8 and free ports, which the commands have to name.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import psutil
from stack_runner import free_ports

from mongars.bootstrap.stack.ownership import PART_VARIABLE, STACK_VARIABLE, owned_processes
from mongars.core.clock import pause

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GCS_PORT, DASHBOARD_PORT, HTTP_PORT = 6379, 8265, 8000
_BENCHMARKS = "198.18"
"""The first two numbers of an address; RFC 2544 reserves these networks for tests."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The address, ports and options of one node; `options` are arguments of `ray start` beside those of the guide."""

    name: str
    address: str
    gcs_port: int = GCS_PORT
    dashboard_port: int = DASHBOARD_PORT
    http_port: int = HTTP_PORT
    head_options: tuple[str, ...] = ("--dashboard-host=0.0.0.0",)
    options: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)


class Net(Protocol):
    """Makes places for nodes that reach each other."""

    listen: str
    """The address on which proxies listen."""

    def describe(self) -> str: ...

    def place(self, name: str) -> Place: ...

    def enter(self, place: Place) -> tuple[str, ...]:
        """The command words to write before a command that is to run at the place."""
        ...

    def processes(self, place: Place, folder: Path) -> list[psutil.Process]:
        """The processes that run at the place now."""
        ...

    def power_off(self, place: Place, folder: Path) -> None:
        """Send SIGKILL to all processes at the place."""
        ...


@contextmanager
def some_net() -> Iterator[Net]:
    """Namespaces if they can be made, otherwise the loopback interface."""
    reason = _obstacle()
    if reason is not None:
        yield Loopback(reason)
        return
    namespaces = Namespaces()
    try:
        yield namespaces
    finally:
        namespaces.close()


class Namespaces:
    """A bridge, and for each node a network namespace that a virtual cable connects to the bridge.

    The processes of a node have a process namespace of their own. Its first process keeps it, and all others are
    killed when the first one ends.
    """

    listen = "0.0.0.0"  # noqa: S104 (of the namespace)

    def __init__(self) -> None:
        for number in range(1, 255):
            self._bridge = f"mgars{number}"
            # The first to create the bridge owns the addresses of its number.
            if _tried("link", "add", self._bridge, "type", "bridge"):
                break
        self._subnet = f"{_BENCHMARKS}.{number}"
        _ip("addr", "add", f"{self._subnet}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        self._cables: dict[str, str] = {}
        """For each namespace, the end of its cable at the bridge."""
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}

    def describe(self) -> str:
        return f"a network namespace per node, {self._subnet}.0/24, default ports"

    def place(self, name: str) -> Place:
        number = len(self._cables) + 11
        space, cable = f"{self._bridge}-{name}", f"{self._bridge}n{number}"
        address = f"{self._subnet}.{number}"
        _ip("netns", "add", space)
        self._cables[space] = cable
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", cable, "master", self._bridge, "up")
        _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "link", "set", "eth0", "up")
        # Ray finds its own address by the default route, which need not work.
        _ip("-n", space, "route", "add", "default", "via", f"{self._subnet}.1")
        return Place(name=name, address=address)

    def enter(self, place: Place) -> tuple[str, ...]:
        keeper = self._keepers.get(place.name)
        if keeper is None or keeper.poll() is not None:
            keeper = self._keepers[place.name] = self._power_on(place)
        (first,) = psutil.Process(keeper.pid).children()
        return ("nsenter", f"--target={first.pid}", "--net", "--pid", "--mount", "--")

    def processes(self, place: Place, folder: Path) -> list[psutil.Process]:
        keeper = self._keepers.get(place.name)
        try:
            return [] if keeper is None else psutil.Process(keeper.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def power_off(self, place: Place, folder: Path) -> None:
        keeper = self._keepers.pop(place.name, None)
        if keeper is not None:
            keeper.kill()
            keeper.communicate()
            running = f"{self._bridge}-{place.name}"
            while _ip("netns", "pids", running).strip():
                pause(0.02)

    def _power_on(self, place: Place) -> subprocess.Popen[bytes]:
        keeper = subprocess.Popen(  # noqa: S603 (our own command)
            [
                *("ip", "netns", "exec", f"{self._bridge}-{place.name}"),
                *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
                # The first process of the namespace waits until its standard input is closed.
                *("sh", "-c", "exec 3<&0; cat <&3 >/dev/null & wait"),
            ],
            stdin=subprocess.PIPE,
        )
        while not psutil.Process(keeper.pid).children():
            assert keeper.poll() is None
            pause(0.02)
        return keeper

    def close(self) -> None:
        """Remove all cables and namespaces, and the bridge."""
        for space, cable in self._cables.items():
            _tried("link", "del", cable)  # deleting a namespace removes its cable later
            _tried("netns", "del", space)
        _tried("link", "del", self._bridge)


class Loopback:
    """All nodes on the loopback interface of this machine."""

    listen = "127.0.0.1"

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self._mark = secrets.token_hex(6)
        self._count = 0

    def describe(self) -> str:
        return f"loopback addresses and ports of their own ({self._reason})"

    def place(self, name: str) -> Place:
        self._count += 1
        address = f"127.0.0.{10 + self._count}"
        gcs, dashboard, http, agent = free_ports(4)
        return Place(
            name=name,
            address=address,
            gcs_port=gcs,
            dashboard_port=dashboard,
            http_port=http,
            head_options=(
                f"--port={gcs}",
                f"--dashboard-host={address}",
                f"--dashboard-port={dashboard}",
            ),
            options=(
                f"--node-ip-address={address}",
                f"--dashboard-agent-listen-port={agent}",
                *("--min-worker-port=0", "--max-worker-port=0"),
            ),
            variables={
                STACK_VARIABLE: self._mark,
                PART_VARIABLE: name,
                "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(http),
                "DASHBOARD_METRIC_PORT": "0",
                "AUTOSCALER_METRIC_PORT": "0",
            },
        )

    def enter(self, place: Place) -> tuple[str, ...]:
        return ()

    def processes(self, place: Place, folder: Path) -> list[psutil.Process]:
        return owned_processes(self._mark, part=place.name, folders=(folder,))

    def power_off(self, place: Place, folder: Path) -> None:
        while victims := self.processes(place, folder):
            # The raylet first: it would report how its workers ended.
            for process in sorted(victims, key=lambda p: p.name() != "raylet"):
                with suppress(psutil.Error):
                    process.kill()
            pause(0.02)
        # A restarted head and workers beside it would take the address in this file for their own.
        (folder / "ray_current_cluster").unlink(missing_ok=True)


def _obstacle() -> str | None:
    """The reason why namespaces cannot be made; None if they can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    if shutil.which("ip") is None:
        return "namespaces need `ip`, of iproute2"
    probe = f"mgars-{secrets.token_hex(4)}"
    made = _tried("netns", "add", probe) and _tried(
        *("-n", probe, "link", "add", "one", "type", "veth", "peer", "name", "two")
    )
    _tried("netns", "del", probe)
    return None if made else "the kernel refuses namespaces or virtual cables"


def _tried(*arguments: str) -> bool:
    try:
        _ip(*arguments)
    except RuntimeError:
        return False
    return True


def _ip(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 (our own command)
        ["ip", *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        message = f"ip {' '.join(arguments)}: {done.stderr.strip()}"
        raise RuntimeError(message)
    return done.stdout
