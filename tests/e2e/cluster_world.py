"""Real Ray clusters of several nodes on one machine, started, joined and broken as in the guide."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from cluster_net import some_net

from mongars.core.clock import SystemClock, pause
from mongars.core.errors import MongarsError
from mongars.serving.config import EngineSpec, ReplicaConfig, SamplingDefaults, ServingConfig
from mongars.serving.control import ServeControl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_net import Net, Place

    from mongars.serving.application_state import ApplicationState

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
RAY = str(Path(sys.executable).with_name("ray"))
TOKEN_DELAY = 0.04
REPLICAS = 3
SMALL = ("--num-cpus=2", "--object-store-memory=80000000", "--include-log-monitor=false")

# A dead node is noticed after 5 failed checks, a dead proxy after 3: by default in 15 and 30 s.
NOTICE_SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
}
CONTROLLER, PROXY, REPLICA = "ray::ServeController", "ray::ProxyActor", "ray::ServeReplica"


@dataclass
class Node:
    """One node: its place in the network, its folder, and the variables and options it is started with."""

    net: Net
    place: Place
    folder: Path
    variables: dict[str, str]
    options: tuple[str, ...]

    @property
    def endpoint(self) -> str:
        """The URL of the proxy."""
        host = self.place.address if self.net.listen == "0.0.0.0" else self.net.listen  # noqa: S104
        return f"http://{host}:{self.place.http_port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # noqa: TID251
            "HOME": str(self.folder),
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "RAY_worker_niceness": "0",
            **NOTICE_SOON,
            **self.variables,
            **self.place.variables,
        }

    @property
    def answers(self) -> bool:
        """Whether the node's proxy answers `/readyz` with 200."""
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def start(self) -> subprocess.Popen[bytes]:
        """Run `ray start`, which ends once the node runs."""
        with (self.folder / "start.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 (our own command)
                [*self.net.enter(self.place), RAY, "start", *self.options, *self.place.options],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def processes(self, title: str = "") -> list[psutil.Process]:
        """The node's running processes whose command line starts with `title`."""
        found = []
        for process in self.net.processes(self.place, self.folder):
            with suppress(psutil.Error):
                living = process.status() != psutil.STATUS_ZOMBIE
                if living and " ".join(process.cmdline()).startswith(title):
                    found.append(process)
        return found

    @property
    def alive(self) -> bool:
        return any(p.name() == "raylet" for p in self.processes())

    def kill(self, title: str) -> None:
        """Send SIGKILL to the node's processes whose command line starts with `title`."""
        for process in self.processes(title):
            process.kill()

    def power_off(self) -> None:
        """Send SIGKILL to all processes of the node."""
        self.net.power_off(self.place, self.folder)


@dataclass
class Cluster:
    """A head and its workers, which require a token."""

    token: str
    head: Node
    workers: list[Node] = field(default_factory=list)

    @property
    def nodes(self) -> list[Node]:
        return [self.head, *self.workers]

    @property
    def living(self) -> list[Node]:
        return [node for node in self.nodes if node.alive]

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.place.address}:{self.head.place.dashboard_port}"

    @property
    def control(self) -> ServeControl:
        return ServeControl(self.dashboard, token=self.token)

    @property
    def anonymous(self) -> ServeControl:
        """A control client without the cluster's token."""
        return ServeControl(self.dashboard)

    def definition(self, *, max_tokens: int = 512) -> ServingConfig:
        engine = EngineSpec(kind="fake", slots=8, token_delay=TOKEN_DELAY)
        return ServingConfig(
            replica=ReplicaConfig(engine=engine, sampling=SamplingDefaults(max_tokens=max_tokens)),
            replicas=REPLICAS if self.workers else 1,
            cpus_per_replica=1,
            host=self.head.net.listen,
            port=self.head.place.http_port,
            drain_seconds=5,
        )

    def deploy(self, *, max_tokens: int = 512) -> ApplicationState:
        config = self.definition(max_tokens=max_tokens)
        return self.control.deploy(config, timeout=60, on_progress=lambda _: None)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the head node; `variables` may replace the token."""
        head = self.head
        return subprocess.run(  # noqa: S603 (our own commands)
            [*head.net.enter(head.place), *command],
            env={**head.environment, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def spread(self) -> list[str]:
        """The address of the node of each running replica, once per replica."""
        state = self.control.status()
        replicas = [r for part in state.deployments for r in part.replicas]
        return [r.node for r in replicas if r.state == "RUNNING"]

    def wait_healthy(self, *, within: float, besides: str | None = None) -> float:
        """Wait until every replica runs, none of them at the address `besides`; returns the seconds that it took."""
        began = CLOCK.monotonic()
        said: object = "nothing"
        while CLOCK.monotonic() - began < within:
            with suppress(MongarsError):
                said = state = self.control.status()
                replicas = [r for part in state.deployments for r in part.replicas]
                good = [r for r in replicas if r.state == "RUNNING" and r.node != besides]
                target = sum(part.target for part in state.deployments)
                if state.healthy and len(replicas) == len(good) == target:
                    return CLOCK.monotonic() - began
            pause(0.2)
        message = f"not healthy within {within} s: {said}"
        raise AssertionError(message)

    def mend(self) -> None:
        """Restore what an earlier test broke: start every node, with a replica on each."""
        began = [node.start() for node in self.nodes if not node.alive]
        for process in began:
            assert process.wait(timeout=60) == 0
        if began or set(self.spread()) != {node.place.address for node in self.nodes}:
            until(lambda: self.counted() == len(self.nodes), within=30)
            self.control.shutdown()
            self.deploy()
        self.wait_healthy(within=60)
        # Serve calls an application healthy before the proxies of its nodes listen.
        until(lambda: all(node.answers for node in self.nodes), within=30)

    def counted(self) -> int:
        """The number of living nodes in the output of `ray status`."""
        place = self.head.place
        # Without the address, `ray` would find all clusters of the machine and refuse to choose one.
        listed = self.run("ray", "status", "--address", f"{place.address}:{place.gcs_port}").stdout
        return sum(" node_" in line for line in listed.partition("Pending:")[0].splitlines())


@dataclass
class World:
    """Makes clusters and ends all of them."""

    net: Net
    folder: Path
    clusters: list[Cluster] = field(default_factory=list)

    def cluster(self, name: str, *, workers: int, **variables: str) -> Cluster:
        """Start a head with `workers` workers, and wait until all have joined."""
        token = secrets.token_hex(32)
        auth = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_START_HOOK": "mongars.bootstrap.stack.ray_hook.local_head",
            **variables,
        }
        place = self.net.place(f"{name}0")
        folder = self._folder(place.name)
        storage = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "gcs")}
        head = Node(
            net=self.net,
            place=place,
            folder=folder,
            variables={**auth, **storage},
            options=("--head", *place.head_options, *SMALL, f"--temp-dir={folder}"),
        )
        cluster = Cluster(token=token, head=head)
        self.clusters.append(cluster)
        _wait(head, head.start())
        cluster.workers = [self._worker(cluster, f"{name}{n + 1}", auth) for n in range(workers)]
        joined = [(worker, worker.start()) for worker in cluster.workers]
        for worker, process in joined:
            _wait(worker, process)
        return cluster

    def end(self, cluster: Cluster) -> None:
        """Kill all nodes of the cluster."""
        for node in reversed(cluster.nodes):
            node.power_off()

    def _worker(self, cluster: Cluster, name: str, variables: dict[str, str]) -> Node:
        head, place = cluster.head.place, self.net.place(name)
        folder = self._folder(name)
        return Node(
            net=self.net,
            place=place,
            folder=folder,
            variables=variables,
            options=(
                f"--address={head.address}:{head.gcs_port}",
                *SMALL,
                f"--temp-dir={folder}",
            ),
        )

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


@contextmanager
def running_world() -> Iterator[World]:
    """A world without clusters; at the end its clusters are killed and its folder is removed."""
    # Not below pytest's folder: the paths of Ray's UNIX sockets may have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="mgc-", dir="/tmp"))
    with some_net() as net:
        world = World(net, folder)
        try:
            yield world
        finally:
            for cluster in world.clusters:
                world.end(cluster)
            shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], bool], *, within: float) -> float:
    """Block until the condition holds; returns the seconds that it took."""
    began = CLOCK.monotonic()
    while not condition():
        assert CLOCK.monotonic() - began < within, f"not within {within} s"
        pause(0.1)
    return CLOCK.monotonic() - began


def _wait(node: Node, process: subprocess.Popen[bytes]) -> None:
    code = process.wait(timeout=90)
    assert code == 0, (node.folder / "start.log").read_text()
