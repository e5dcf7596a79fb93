from __future__ import annotations

import asyncio

import pytest
from ray_harness import RayHarness, ray_harness

from mongars.core.clock import SystemClock
from mongars.core.errors import EndpointUnreachable, Overloaded
from mongars.inference.events import ScalingSeen
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Fault, FaultyResponse, Silence, Status

AT_ONCE = 0.2
CLOCK = SystemClock()


async def until(condition: object) -> None:
    """Wait until `condition()` is true; fail after 5 s."""
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await CLOCK.sleep(0.002)


async def read_first(ray: RayHarness, seen: list[str]) -> None:
    async with ray.open() as stream:
        seen.extend([(await anext(stream.chunks)).text for _ in range(2)])
        async for _ in stream.chunks:
            pass


@pytest.mark.parametrize(
    ("fault", "content"),
    [
        (Silence(), False),
        (FaultyResponse(first_delay=60), False),
        (FaultyResponse(first_delay=60, whole=True), False),
        (FaultyResponse(stall_after=5), True),
        (FaultyResponse(text="word " * 5000, token_delay=0.005), True),
    ],
    ids=["headers", "first token", "whole answer", "stalled", "flowing"],
)
async def test_the_replica_sees_a_disconnect_at_once(fault: Fault, content: bool) -> None:
    """Cancelling a request in any phase closes the replica's connection within 0.2 s, without a recorded failure."""
    async with FakeReplica(fault) as replica, ray_harness(replica.url) as ray:
        seen: list[str] = []
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_first(ray, seen))
            await until(lambda: replica.received and (not content or "".join(seen)))
            left_at = CLOCK.monotonic()
            reading.cancel()
        (received,) = replica.received
        async with asyncio.timeout(AT_ONCE):
            await received.peer_left.wait()
        assert received.left_at is not None
        assert received.left_at - left_at < AT_ONCE
        (endpoint,) = await ray.endpoints()
        assert (endpoint.in_flight, endpoint.failures) == (0, 0)
        assert replica.in_flight == 0


async def test_disconnecting_closes_the_connection() -> None:
    """Leaving a stream before its end closes the connection to the replica within 0.2 s."""
    async with (
        FakeReplica(FaultyResponse(token_delay=0.05)) as replica,
        ray_harness(replica.url) as ray,
    ):
        async with ray.open() as stream:
            assert (await anext(stream.chunks)).text == ""
        async with asyncio.timeout(AT_ONCE):
            await replica.received[0].peer_left.wait()


async def test_leaving_during_a_wait_ends_the_retries() -> None:
    """A client that disconnects during the wait before a retry causes no further request."""
    patient = Status(code=503, headers={"Retry-After": "0.4"})
    async with FakeReplica(patient) as replica, ray_harness(replica.url) as ray:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ray.ask())
            await until(lambda: ray.observer.of(ScalingSeen))
            asking.cancel()
        await CLOCK.sleep(0.6)
        assert len(replica.received) == 1


async def test_a_thousand_disconnects_leave_nothing_behind() -> None:
    """After 1,000 cancelled requests, no connection is open and no request counts as in progress."""
    async with FakeReplica() as replica, ray_harness(replica.url, max_connections=50) as ray:
        replica.always = FaultyResponse(first_delay=30)
        for _ in range(20):
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(ray.ask()) for _ in range(50)]
                await until(lambda: replica.in_flight == 50)
                for task in asking:
                    task.cancel()
            await until(lambda: replica.in_flight == 0)
        assert [endpoint.in_flight for endpoint in await ray.endpoints()] == [0]
        assert replica.open_connections == 0


@pytest.mark.parametrize("end_delay", [0.0, 0.01])
async def test_connections_are_reused(end_delay: float) -> None:
    """Fifty consecutive requests use one connection, even if each response body ends 10 ms late."""
    async with FakeReplica() as replica, ray_harness(replica.url) as ray:
        replica.always = FaultyResponse(end_delay=end_delay)
        for _ in range(50):
            assert await ray.ask() == TEXT
        assert replica.connections == 1


async def test_no_more_connections_than_configured() -> None:
    """A request beyond `RAY_CLIENT_MAX_CONNECTIONS` is refused as overloaded, without a failure of the endpoint."""
    async with (
        FakeReplica() as replica,
        ray_harness(replica.url, max_connections=2, timeout=1.2) as ray,
    ):
        replica.always = FaultyResponse(stall_after=1)
        async with asyncio.TaskGroup() as group:
            held = [group.create_task(ray.ask()) for _ in range(2)]
            await until(lambda: replica.in_flight == 2)
            with pytest.raises(Overloaded, match="RAY_CLIENT_MAX_CONNECTIONS"):
                await ray.ask()
            for task in held:
                task.cancel()
        assert len(replica.received) == 2
        assert [endpoint.failures for endpoint in await ray.endpoints()] == [0]
        replica.always = FaultyResponse()
        assert await ray.ask() == TEXT


async def test_no_more_idle_connections_than_configured() -> None:
    """Of ten connections in use together, `RAY_CLIENT_MAX_KEEPALIVE` stay open afterwards."""
    async with FakeReplica() as replica, ray_harness(replica.url, max_keepalive=3) as ray:
        replica.always = FaultyResponse(first_delay=0.1)
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(ray.ask())
        assert replica.connections == 10
        await until(lambda: replica.open_connections <= 3)
        replica.always = FaultyResponse()
        for _ in range(5):
            assert await ray.ask() == TEXT
        assert replica.connections == 10


async def test_small_pieces_are_not_held_back() -> None:
    """The first token arrives within 30 ms, without the 40 ms delay of small TCP packets."""
    waits = []
    async with FakeReplica() as replica, ray_harness(replica.url) as ray:
        for _ in range(10):
            start = CLOCK.monotonic()
            async with ray.open():
                waits.append(CLOCK.monotonic() - start)
    assert sorted(waits)[2] < 0.03


async def test_a_connection_that_breaks_late_was_not_idle() -> None:
    """A request whose connection breaks while the server works is not sent again on other idle connections."""
    async with FakeReplica() as replica, ray_harness(replica.url, scaling_backoff=(0.01,)) as ray:
        replica.always = FaultyResponse(first_delay=0.2)
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(ray.ask())
        assert replica.open_connections == 5
        replica.always = Silence(seconds=0.6)
        before, asked = len(replica.received), ray.attempts.count
        with pytest.raises(EndpointUnreachable):
            await ray.ask()
        assert len(replica.received) - before == ray.attempts.count - asked
