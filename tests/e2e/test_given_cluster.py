"""The commands for the application on a Ray cluster that was started independently, as in the guide."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import psutil
import pytest
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from stack_runner import free_ports

from mongars.bootstrap.stack.ownership import owned_processes, stack_id, stop_owned
from mongars.bootstrap.stack.ray_head import RayHead
from mongars.core.clock import SystemClock
from mongars.serving.config import EngineSpec, ReplicaConfig, ServingConfig
from mongars.serving.definition import deploy_schema
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()


@dataclass
class Cluster:
    head: RayHead
    environment: dict[str, str]

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.head.dashboard_port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['RAY_HTTP_PORT']}"

    async def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, *command],
            env={**self.environment, **variables},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def engines(self) -> list[int]:
        found = []
        for process in owned_processes(self.head.stack, folders=(self.head.folder,)):
            with contextlib.suppress(psutil.Error):
                if "mongars.engines.llama_cpp.child" in process.cmdline():
                    found.append(process.pid)
        return found


@pytest.fixture
async def cluster(tmp_path: Path, model_cache: Path) -> AsyncIterator[Cluster]:
    port, dashboard, http = free_ports(3)
    stack = stack_id(tmp_path)
    head = RayHead(python=sys.executable, stack=stack, port=port, dashboard_port=dashboard, cpus=2)
    environment = {
        "PATH": os.environ["PATH"],  # noqa: TID251
        "HOME": str(tmp_path),
        "MONGARS_HOME": str(tmp_path / "home"),
        "MONGARS_CACHE": str(model_cache),
        "MONGARS_STACK_ID": stack,
        "RAY_HTTP_PORT": str(http),
        "RAY_DASHBOARD_PORT": str(dashboard),
    }
    head.prepare(tmp_path / "logs")
    with (tmp_path / "ray.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603, ASYNC220 (our own command; it returns at once)
            head.argv, env=head.head_environment(environment), stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(60):
            while not await head.ready():
                await CLOCK.sleep(0.1)
        yield Cluster(head, head.client_environment(environment))
    finally:
        await asyncio.to_thread(stop_owned, stack, grace=5, folders=(head.folder,))
        process.wait(timeout=10)
        head.remove()


async def test_deploy_status_redeploy_and_shutdown(cluster: Cluster) -> None:
    """`--deploy` waits until healthy, a second `--deploy` restarts no replica, and `--shutdown` ends the engines."""
    status = await cluster.run("-m", "modules.ray_service", "--status")
    assert status.returncode == 1
    assert "NOT_STARTED" in status.stdout

    deployed = await cluster.run("-m", "modules.ray_service", "--deploy")
    assert deployed.returncode == 0, deployed.stderr
    assert "HEALTHY" in deployed.stderr + deployed.stdout
    serve = await cluster.run("-m", "ray.serve.scripts", "status", "--address", cluster.dashboard)
    assert "status: HEALTHY" in serve.stdout

    async with aiohttp.ClientSession() as http:
        body = {"prompt": "Say hello.", "task_type": "general", "max_tokens": 4, "temperature": 0}
        async with http.post(cluster.url + "/generate", json=body) as response:
            first = await response.json()
            assert response.status == 200
            assert first["content"]
            assert first["usage"]["completion_tokens"] == 4

        again = await cluster.run("-m", "modules.ray_service", "--deploy", "--json")
        assert json.loads(again.stdout)["healthy"] is True
        del body["max_tokens"]
        changed = await cluster.run(
            "-m", "modules.ray_service", "--deploy", RAY_MODEL_MAX_TOKENS="3"
        )
        assert changed.returncode == 0
        async with http.post(cluster.url + "/generate", json=body) as response:
            second = await response.json()
        assert second["usage"]["completion_tokens"] == 3, "the new default is in use"
        assert second["replica"] == first["replica"], "no replica was restarted"

    serve_command = str(Path(sys.executable).parent / "serve")
    refused = await cluster.run(serve_command, "run", "serve_app:deployment")
    assert refused.returncode == 1
    assert "modules.ray_service --shutdown" in refused.stderr
    assert "Traceback" not in refused.stderr

    assert len(cluster.engines()) == 2, "the general model and the embedding model"
    shutdown = await cluster.run("-m", "modules.ray_service", "--shutdown")
    assert shutdown.returncode == 0
    await eventually(lambda: not cluster.engines(), seconds=10)


async def test_other_peoples_applications_stay(cluster: Cluster) -> None:
    """Deploying and removing the application leaves other applications of the cluster running."""
    other = deploy_schema(
        ServingConfig(
            replica=ReplicaConfig(engine=EngineSpec(kind="fake")),
            port=int(cluster.environment["RAY_HTTP_PORT"]),
            cpus_per_replica=0.1,
        )
    )
    other["applications"][0] |= {"name": "other", "route_prefix": "/other"}
    client = await asyncio.to_thread(ServeSubmissionClient, cluster.dashboard)
    await asyncio.to_thread(client.deploy_applications, other)
    for command, expected in (
        ("--deploy", {"other", "mongars"}),
        ("--shutdown", {"other"}),
    ):
        done = await cluster.run("-m", "modules.ray_service", command)
        assert done.returncode == 0, done.stderr
        async with asyncio.timeout(20):
            while (
                set((await asyncio.to_thread(client.get_serve_details))["applications"]) != expected
            ):
                await CLOCK.sleep(0.2)


async def test_a_deployment_that_cannot_work_says_why(cluster: Cluster, tmp_path: Path) -> None:
    """A broken model file fails `--deploy` with the engine's reason and exit status 1."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + b"\0" * 64)
    cache = {
        "MONGARS_CACHE": str(tmp_path / "cache"),
        "RAY_GENERAL_MODEL": str(broken),
        "RAY_EMBEDDING_MODEL": "",
    }
    provisioned = await cluster.run("-m", "scripts.provision_models", **cache)
    assert provisioned.returncode == 0, provisioned.stderr
    deployed = await cluster.run("-m", "modules.ray_service", "--deploy", **cache)
    assert deployed.returncode == 1
    assert "could not load" in deployed.stderr
    assert "Traceback" not in deployed.stderr


async def test_no_cluster_is_a_clear_error(tmp_path: Path) -> None:
    """If there is no dashboard at the address, `--status` fails with a message that has the address."""
    done = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-m",
            "modules.ray_service",
            "--status",
            "--address",
            "http://127.0.0.1:9",
        ],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
