from __future__ import annotations

import asyncio

import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import AllProvidersFailed
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.config import InferenceConfig
from mongars.inference.endpoints.probes import FRESH_SECONDS
from mongars.inference.endpoints.route_url import route_url
from mongars.inference.events import EndpointChanged
from mongars.inference.ray.prober import READINESS_PATH
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import Silence
from mongars.testing.inference import Stack, build, question
from mongars.testing.manual_clock import ManualClock

CLOCK = SystemClock()


def stack(*urls: str, local: bool = True, timeout: float = 5.0) -> Stack:
    config = InferenceConfig(endpoints=urls, use_ray=True, timeout=timeout)
    return build(config, engine=FakeEngine(FakePlan(), clock=CLOCK) if local else None)


async def provider_of(built: Stack) -> str:
    return (await built.integration.generate(question()))[1].provider


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://ray-head:8000/generate", "http://ray-head:8000/readyz"),
        ("http://ray-head:8000/generate/", "http://ray-head:8000/readyz"),
        ("https://host/prefix/generate?x=1", "https://host/prefix/readyz"),
        ("http://host", "http://host/readyz"),
    ],
)
def test_the_readiness_route_is_beside_the_endpoint(endpoint: str, expected: str) -> None:
    """The readiness URL has `/readyz` in place of `/generate`, under the same prefix."""
    assert route_url(endpoint, READINESS_PATH) == expected


@pytest.mark.parametrize("ready", [200, 404])
async def test_a_cluster_that_returns_is_used_again_within_seconds(ready: int) -> None:
    """While the cluster is down, the local engine answers; within 4 s of its return, Ray answers again."""
    async with FakeReplica() as replica:
        replica.ready = ready
        built = stack(replica.url)
        async with built.integration:
            assert await provider_of(built) == "ray_serve"
            await replica.stop()
            assert [await provider_of(built) for _ in range(3)] == ["embedded"] * 3
            await replica.start()
            async with asyncio.timeout(4):
                while await provider_of(built) != "ray_serve":
                    await CLOCK.sleep(0.1)
        states = [event.state for event in built.observer.of(EndpointChanged)]
        assert states == ["down", "reachable"]


async def test_an_endpoint_that_is_not_ready_is_left_alone() -> None:
    """An endpoint that timed out gets no requests while `/readyz` returns 503."""
    async with FakeReplica(Silence()) as replica:
        built = stack(replica.url, timeout=0.3)
        async with built.integration:
            assert await provider_of(built) == "embedded"
            replica.ready = 503
            until = CLOCK.monotonic() + 3.0
            while CLOCK.monotonic() < until:
                assert await provider_of(built) == "embedded"
                await CLOCK.sleep(0.1)
        assert len(replica.received) == 1


async def test_dead_endpoints_are_found_before_the_first_request() -> None:
    """Endpoints are probed at start, so that the first request skips a dead one."""
    async with FakeReplica() as replica:
        built = stack("http://127.0.0.1:9/generate", replica.url)
        async with built.integration:
            async with asyncio.timeout(2):
                while replica.probes == 0 or not built.observer.of(EndpointChanged):
                    await CLOCK.sleep(0.01)
            _, route = await built.integration.generate(question())
            assert route.attempts == 1
            (ray, _) = await built.integration.status()
            assert ray.detail == "1 of 2 endpoints up"


async def test_status_tells_a_dead_cluster_from_a_live_one() -> None:
    """Before any request, `status` shows a reachable cluster as up and an unreachable one as down."""
    async with FakeReplica() as replica:
        for url, state in ((replica.url, "up"), ("http://127.0.0.1:9/generate", "down")):
            built = stack(url)
            async with built.integration:
                ray, embedded = await built.integration.status()
                assert (ray.name, ray.state) == ("ray_serve", state)
                assert (embedded.name, embedded.state) == ("embedded", "unknown")


async def test_status_notices_that_an_idle_cluster_died() -> None:
    """A cluster that has not responded lately is probed before `status` shows it as up."""
    async with FakeReplica() as replica:
        clock = ManualClock()
        config = InferenceConfig(endpoints=(replica.url,), use_ray=True)
        built = build(config, engine=FakeEngine(FakePlan(), clock=CLOCK), clock=clock)
        async with built.integration as llm:
            assert await provider_of(built) == "ray_serve"
            await replica.stop()
            assert next(status.state for status in await llm.status()) == "up", "heard just now"
            await clock.advance(FRESH_SECONDS + 1)
            assert next(status.state for status in await llm.status()) == "down"


async def test_an_error_inside_the_context_stays_itself() -> None:
    """An error raised inside the integration's block is neither hidden nor wrapped when the block ends."""
    built = stack("http://127.0.0.1:9/generate", local=False)
    with pytest.raises(AllProvidersFailed):
        async with built.integration:
            await built.integration.generate(question())
