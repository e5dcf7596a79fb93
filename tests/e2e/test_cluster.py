"""A Ray cluster of a head and two workers, started as in the guide, under load while parts of it are killed."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest
from cluster_load import PROMPT, Asked, Sent, ask, load
from cluster_world import CLOCK, CONTROLLER, PROXY, Cluster, World, running_world, until

from mongars.core.errors import MongarsError
from mongars.inference.events import EndpointChanged
from mongars.settings import load_settings
from mongars.testing.inference import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

SERVICE = (sys.executable, "-m", "modules.ray_service")
CUT = {"broken connection", "error event", "status 500"}
"""How a request whose replica or proxy is killed fails: with an error, never as a short answer."""


@pytest.fixture(scope="module")
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that writes a line to the terminal, whether the test passes or not."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")

    def write(text: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"\n  cluster: {text}")

    return write


@pytest.fixture(scope="module")
def world(tell: Callable[[str], None]) -> Iterator[World]:
    with running_world() as made:
        tell(f"nodes live in {made.net.describe()}")
        yield made


@pytest.fixture(scope="module")
def deployed(world: World, tell: Callable[[str], None]) -> Cluster:
    """A cluster of three nodes with a replica on each of them."""
    began = CLOCK.monotonic()
    cluster = world.cluster("a", workers=2)
    started = CLOCK.monotonic()
    cluster.deploy()
    ready = CLOCK.monotonic()
    endpoints = until(lambda: all(node.answers for node in cluster.nodes), within=30)
    tell(
        f"three nodes in {started - began:.1f} s, deployed in {ready - started:.1f} s,"
        f" every proxy listened {endpoints:.1f} s later"
    )
    return cluster


@pytest.fixture
def cluster(deployed: Cluster) -> Cluster:
    """The deployed cluster, restored: tests run in any order, and most of them break a part of it."""
    deployed.mend()
    return deployed


def endpoints(cluster: Cluster) -> list[str]:
    return [node.endpoint for node in cluster.nodes]


def hit(sent: Sent, *, moment: float, endpoint: str | None, replicas: set[str]) -> bool:
    """Whether a request was running at that moment, through that endpoint or on one of the replicas.

    The replica of an answer in one piece that breaks is unknown; such a request counts as one of theirs.
    """
    on_its_way = sent.began <= moment <= sent.ended
    return on_its_way and (
        sent.endpoint == endpoint or sent.replica is None or sent.replica in replicas
    )


async def test_replicas_spread_and_every_proxy_answers(cluster: Cluster) -> None:
    """The three nodes are listed by `ray status` and `--status --json`, and every proxy reaches replicas."""
    assert cluster.counted() == 3
    addresses = {node.place.address for node in cluster.nodes}

    status = await asyncio.to_thread(
        cluster.run, *SERVICE, "--status", "--json", "--address", cluster.dashboard
    )

    told = json.loads(status.stdout)
    assert told["healthy"] is True
    assert {replica["node"] for replica in told["deployments"][0]["replicas"]} == addresses
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(ask(http, endpoint, stream=stream))
            for endpoint in endpoints(cluster)
            for stream in (False, True)
            for _ in range(4)
        ]
        await asyncio.wait(tasks)
    answers = [task.result() for task in tasks]
    assert [sent for sent in answers if sent.failure] == []
    assert len({sent.replica for sent in answers}) == 3


async def test_killed_worker_costs_what_was_in_flight_there(
    cluster: Cluster, tell: Callable[[str], None]
) -> None:
    """If a worker node is killed, only requests through it or on its replica fail, and the replica is replaced."""
    victim = cluster.workers[1]
    state = await asyncio.to_thread(cluster.control.status)
    lost = {r.name for r in state.deployments[0].replicas if r.node == victim.place.address}
    assert lost
    async with load(endpoints(cluster)) as seen:
        await seen.more(12)
        moment = CLOCK.monotonic()
        await asyncio.to_thread(victim.power_off)
        seconds = await asyncio.to_thread(
            cluster.wait_healthy, within=60, besides=victim.place.address
        )
        await seen.more(12)
    others = [sent for sent in seen.failed if sent.failure != "not connected"]
    tell(
        f"killed worker: healthy after {seconds:.1f} s, {seen.describe()};"
        f" {len(others)} beside those sent to its own address"
    )
    for sent in seen.failed:
        if sent.failure == "not connected":
            assert sent.endpoint == victim.endpoint
        else:
            assert hit(sent, moment=moment, endpoint=victim.endpoint, replicas=lost), sent
            assert sent.failure in CUT


async def test_killed_controller_is_not_missed(
    cluster: Cluster, tell: Callable[[str], None]
) -> None:
    """If Serve's controller is killed, requests are answered; a new controller starts, and deploying works."""
    (before,) = cluster.head.processes(CONTROLLER)
    async with load(endpoints(cluster)) as seen:
        await seen.more(6)
        cluster.head.kill(CONTROLLER)
        began = CLOCK.monotonic()
        await asyncio.to_thread(
            until, lambda: cluster.head.processes(CONTROLLER) not in ([], [before]), within=60
        )
        await asyncio.to_thread(cluster.wait_healthy, within=60)
        seconds = CLOCK.monotonic() - began
        state = await asyncio.to_thread(cluster.deploy, max_tokens=5)
        await seen.more(6)
    tell(f"killed controller: healthy after {seconds:.1f} s, {seen.describe()}")
    assert seen.failed == []
    assert state.healthy
    async with (
        aiohttp.ClientSession(cluster.head.endpoint) as http,
        http.post("/generate", json={"prompt": PROMPT}) as response,
    ):
        assert (await response.json())["usage"]["completion_tokens"] == 5


async def test_head_may_be_away_when_it_keeps_its_state_on_disk(
    cluster: Cluster, tell: Callable[[str], None]
) -> None:
    """If the head node is killed, the workers answer; the restarted head has its state and can deploy again."""
    workers = [node.endpoint for node in cluster.workers]
    async with load(workers) as seen:
        await seen.more(6)
        moment = CLOCK.monotonic()
        await asyncio.to_thread(cluster.head.power_off)
        await seen.more(6)
        began = CLOCK.monotonic()
        code = await asyncio.to_thread(cluster.head.start().wait, 60)
        await asyncio.to_thread(cluster.wait_healthy, within=60)
        seconds = CLOCK.monotonic() - began
        await seen.more(6)
    tell(f"head powered off: healthy {seconds:.1f} s after its return, {seen.describe()}")
    assert code == 0
    assert {sent.failure for sent in seen.failed} <= CUT
    for sent in seen.failed:
        assert sent.began <= moment <= sent.ended, sent
    again = await asyncio.to_thread(cluster.deploy)
    assert again.healthy


async def test_killed_proxy_comes_back_and_no_other_door_is_disturbed(
    cluster: Cluster, tell: Callable[[str], None]
) -> None:
    """If a proxy is killed, only requests through it fail, and a new proxy answers within 60 s."""
    victim, *others = reversed(cluster.nodes)
    (before,) = victim.processes(PROXY)
    async with load(endpoints(cluster)) as seen:
        await seen.more(6)
        moment = CLOCK.monotonic()
        victim.kill(PROXY)
        seconds = await asyncio.to_thread(
            until,
            lambda: victim.processes(PROXY) not in ([], [before]) and victim.answers,
            within=60,
        )
        await seen.more(12)
    tell(f"killed proxy: its door answered after {seconds:.1f} s, {seen.describe()}")
    assert {sent.endpoint for sent in seen.failed} <= {victim.endpoint}
    for sent in seen.failed:
        if sent.failure != "not connected":
            assert sent.began <= moment <= sent.ended, sent
    assert {node.endpoint for node in others} <= {s.endpoint for s in seen.sent if s.began > moment}


async def test_without_the_token_nothing_is_told_or_deployed(cluster: Cluster) -> None:
    """Without the token, `--status`, `--shutdown` and deploying are refused with an error that names the variable."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(asyncio.to_thread(cluster.run, *SERVICE, *arguments, **variables))
            for arguments, variables in (
                (("--status", "--address", cluster.dashboard), {"RAY_AUTH_TOKEN": ""}),
                (("--shutdown", "--address", cluster.dashboard), {"RAY_AUTH_TOKEN": "b" * 64}),
            )
        ]
    for task in tasks:
        refused = task.result()
        assert refused.returncode == 1
        assert "refuses this one" in refused.stderr
        assert "RAY_AUTH_TOKEN" in refused.stderr
        assert "Traceback" not in refused.stderr
    with pytest.raises(MongarsError, match="token"):
        cluster.anonymous.deploy(cluster.definition(), timeout=5, on_progress=print)
    assert await asyncio.to_thread(lambda: cluster.control.status().healthy)


async def test_two_clusters_are_two_endpoints(
    cluster: Cluster, world: World, tell: Callable[[str], None]
) -> None:
    """If one of two clusters is killed, only answers that it had begun are cut; all other requests are answered."""
    other = await asyncio.to_thread(world.cluster, "b", workers=0)
    await asyncio.to_thread(other.deploy)
    await asyncio.to_thread(until, lambda: other.head.answers, within=30)
    alive, dead = (f"{each.head.endpoint}/generate" for each in (cluster, other))
    stack = build(load_settings({"RAY_SERVE_URL": f"{alive},{dead}"}).inference())
    asked = Asked(stack.integration)

    async with stack.integration, asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(asked.keep_asking())
        await asked.more(12)
        before = await asked.endpoints()
        await CLOCK.sleep(0.4)  # until both clusters are in the middle of answers
        moment = CLOCK.monotonic()
        await asyncio.to_thread(world.end, other)
        await asked.more(18)
        after = await asked.endpoints()
        asked.stopped.set()

    tell(f"one of two clusters killed: {asked.describe()}")
    live, lost = (url.removeprefix("http://") for url in (alive, dead))
    assert before == {live: "up", lost: "up"}
    assert after == {live: "up", lost: "down"}
    changes = stack.observer.of(EndpointChanged)
    assert [(lost.split("/")[0], "down")] == [(e.endpoint, e.state) for e in changes]
    assert asked.refused == []
    for cut in asked.cut:
        assert cut.endpoint == lost
        assert cut.began <= moment
