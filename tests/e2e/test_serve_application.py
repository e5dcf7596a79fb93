"""The Serve application on a real cluster: updates under load, overload, session affinity, HAProxy."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio

from mongars.core.clock import SystemClock
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from mongars.serving.config import (
    Autoscaling,
    EngineSpec,
    ReplicaConfig,
    SamplingDefaults,
    ServingConfig,
)
from mongars.testing.ray_cluster import ray_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.testing.ray_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
CLOCK = SystemClock()
SLOTS = 4
WAITING = 4


def application(*, replicas: int = 1, slots: int = SLOTS, tokens: int = 64) -> ServingConfig:
    engine = EngineSpec(kind="fake", slots=slots, token_delay=0.02)
    replica = ReplicaConfig(
        engine=engine, max_waiting=WAITING, sampling=SamplingDefaults(max_tokens=tokens)
    )
    return ServingConfig(replica=replica, replicas=replicas, cpus_per_replica=0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with ray_cluster(2) as started:
        yield started


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield http


@dataclass
class Seen:
    """The results of a load: statuses, incomplete answers, replicas and token counts."""

    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    replicas: Counter[str] = field(default_factory=Counter)
    lengths: set[int] = field(default_factory=set)
    without_retry_after: int = 0
    slowest: float = 0.0


async def ask(http: aiohttp.ClientSession, url: str, seen: Seen, **more: object) -> None:
    """Send one streaming request and check that its answer is complete."""
    headers = more.pop("headers", {})
    body = {"prompt": "word " * 20, "stream": True, **more}
    began = CLOCK.monotonic()
    try:
        async with http.post(url + "/generate", json=body, headers=headers) as response:
            data = await response.read()
            seen.statuses[response.status] += 1
            if response.status in {429, 503}:
                seen.without_retry_after += "Retry-After" not in response.headers
            if response.status != 200:
                return
            seen.replicas[response.headers["X-Replica-Id"]] += 1
    except aiohttp.ClientError as error:
        seen.broken.append(repr(error))
        return
    seen.slowest = max(seen.slowest, CLOCK.monotonic() - began)
    events = EventSplitter().feed(data)
    if not events[-1].is_done:
        seen.broken.append(data[-200:].decode())
        return
    accumulated = AnswerAccumulator()
    for event in events[1:-1]:
        accumulated.add(read_chunk(event))
    assert accumulated.usage is not None
    seen.lengths.add(accumulated.usage.completion_tokens)


@asynccontextmanager
async def load(url: str, callers: int, **more: object) -> AsyncIterator[Seen]:
    """Callers that send requests one after the other while the block runs; at its end they finish the last one."""
    seen, stop = Seen(), asyncio.Event()

    async def caller(http: aiohttp.ClientSession) -> None:
        while not stop.is_set():
            await ask(http, url, seen, **more)

    async with client() as http, asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller(http))
        try:
            yield seen
        finally:
            stop.set()


async def test_unchanged_definition_restarts_nothing(cluster: Cluster) -> None:
    """Deploying an unchanged definition keeps every replica and its process."""
    await cluster.deploy(application(replicas=2))
    before = cluster.control.status().deployments[0].replicas
    await cluster.deploy(application(replicas=2))
    after = cluster.control.status().deployments[0].replicas
    assert {(r.name, r.pid) for r in before} == {(r.name, r.pid) for r in after}


async def test_monitors_reach_a_replica_through_the_proxy(cluster: Cluster) -> None:
    """HEAD and `/health` are answered through the proxy, and a wrong method gets 405 with `Allow`."""
    await cluster.deploy(application())
    async with client() as http:
        async with http.head(cluster.url + "/health") as response:
            assert (response.status, await response.read()) == (200, b"")
        async with http.post(cluster.url + "/health") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


async def test_sampling_default_changes_without_dropping_a_request(cluster: Cluster) -> None:
    """A new sampling default applies under load without replacing the replica or breaking an answer."""
    await cluster.deploy(application(tokens=12))
    async with load(cluster.url, 3) as seen:
        await CLOCK.sleep(1.0)
        await cluster.deploy(application(tokens=7))
        await CLOCK.sleep(1.0)
    assert set(seen.statuses) == {200}
    assert not seen.broken
    assert seen.lengths == {12, 7}
    assert len(seen.replicas) == 1, "no replica was replaced"


async def test_code_change_on_one_replica_drops_nothing(cluster: Cluster) -> None:
    """A changed engine setting replaces the only replica under load without failing a request."""
    await cluster.deploy(application())
    async with load(cluster.url, 3) as seen:
        await CLOCK.sleep(1.0)
        await cluster.deploy(application(slots=SLOTS + 1))
        await CLOCK.sleep(2.0)
    assert set(seen.statuses) == {200}
    assert not seen.broken
    assert len(seen.replicas) == 2, "the replica was replaced"


async def test_overload_is_refused_politely_and_ends_at_once(cluster: Cluster) -> None:
    """At four times the capacity, requests get 200 or 503 with `Retry-After`; afterwards requests are answered."""
    await cluster.deploy(application())
    async with load(cluster.url, 4 * (SLOTS + WAITING)) as seen:
        await CLOCK.sleep(6.0)
    assert set(seen.statuses) == {200, 503}
    assert not seen.broken
    assert seen.without_retry_after == 0
    # A slot takes about 0.5 s; before an accepted request there are at most WAITING others.
    assert seen.slowest < 5.0
    after = Seen()
    async with client() as http:
        await ask(http, cluster.url, after)
    assert after.statuses == {200: 1}


async def test_conversation_stays_with_its_replica_while_that_has_room(cluster: Cluster) -> None:
    """Requests with one `x-session-id` go to the same replica, and beyond its slots to others."""
    await cluster.deploy(application(replicas=3))
    seen = [Seen() for _ in range(8)]
    async with client() as http:
        await ask(http, cluster.url, Seen())
        for _ in range(3):
            for number, one in enumerate(seen):
                await ask(http, cluster.url, one, headers={"x-session-id": f"talk-{number}"})
        burst = Seen()
        headers = {"x-session-id": "talk-0"}
        async with asyncio.TaskGroup() as group:
            for _ in range(2 * SLOTS):
                group.create_task(ask(http, cluster.url, burst, headers=dict(headers)))
    assert all(len(one.replicas) == 1 for one in seen)
    assert len({next(iter(one.replicas)) for one in seen}) > 1, "not all in one place"
    assert len(burst.replicas) > 1, "beyond its slots, others help"
    assert set(burst.statuses) == {200}


async def test_replicas_follow_the_load(cluster: Cluster) -> None:
    """With more callers than slots for a while, replicas are added, and no request fails."""
    scaling = Autoscaling(min_replicas=1, max_replicas=3, upscale_delay=1.0)
    config = application(slots=2).model_copy(update={"autoscaling": scaling})
    await cluster.deploy(config)
    async with load(cluster.url, 6) as seen, asyncio.timeout(60):
        while len(seen.replicas) < 2:
            await CLOCK.sleep(0.5)
    assert set(seen.statuses) == {200}
    assert not seen.broken


async def test_haproxy_instead_of_rays_proxy() -> None:
    """With HAProxy in front of the replicas, requests are answered, or refused with 503 and `Retry-After`."""
    config = application().model_copy(update={"haproxy": True})
    async with ray_cluster(2, haproxy=True) as cluster:
        await cluster.deploy(config)
        assert cluster.processes("haproxy.cfg"), "HAProxy runs"
        async with load(cluster.url, 3) as calm:
            await CLOCK.sleep(1.5)
        async with load(cluster.url, 4 * (SLOTS + WAITING)) as crowded:
            await CLOCK.sleep(3.0)
    assert set(calm.statuses) == {200}
    assert not calm.broken
    assert set(crowded.statuses) == {200, 503}
    assert crowded.without_retry_after == 0
    assert not crowded.broken
