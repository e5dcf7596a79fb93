"""Idle connections that are closed by a server or by a proxy before it."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Literal

import pytest
from ray_harness import ray_harness

from mongars.core.clock import SystemClock
from mongars.core.errors import EndpointUnreachable
from mongars.inference.events import AttemptFailed
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Reset
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLOCK = SystemClock()
Way = Literal["fin", "rst"]


class Middlebox:
    """A proxy in front of a replica that closes client connections, with FIN or RST as `way` says.

    `in_the_moment`: close each connection at its second request, as if the close and the request
    had crossed.
    """

    def __init__(
        self, replica: FakeReplica, *, way: Way = "fin", in_the_moment: bool = False
    ) -> None:
        self._port = int(replica.base.rpartition(":")[2])
        self._way = way
        self._in_the_moment = in_the_moment
        self._clients: list[asyncio.StreamWriter] = []
        self.url = ""
        self.connections = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Middlebox]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/generate"
        try:
            yield self
        finally:
            server.close()
            self.hang_up()

    def hang_up(self) -> None:
        """Close all open client connections."""
        while self._clients:
            self._close(self._clients.pop())

    def _close(self, client: asyncio.StreamWriter) -> None:
        if self._way == "rst" and not client.is_closing():
            sock = client.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.transport.abort()
        client.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._clients.append(writer)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        requests = 0
        with suppress(ConnectionError):
            async with asyncio.TaskGroup() as group:
                back = group.create_task(pump(up_reader, writer))
                while block := await reader.read(65536):
                    requests += block.startswith(b"POST")
                    if self._in_the_moment and requests > 1:
                        self._close(writer)
                        break
                    up_writer.write(block)
                back.cancel()
        up_writer.close()
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(65536):
        writer.write(block)


@pytest.mark.parametrize("way", ["fin", "rst"])
async def test_a_connection_closed_while_it_is_reused_is_no_failure(way: Way) -> None:
    """A request whose idle connection is just being closed is sent on another one, without a recorded failure."""
    clock = ManualClock()
    async with (
        FakeReplica() as replica,
        Middlebox(replica, way=way, in_the_moment=True).listening() as box,
        ray_harness(box.url, clock=clock) as ray,
    ):
        assert [await ray.ask() for _ in range(6)] == [TEXT] * 6
        assert (box.connections, len(replica.received)) == (6, 6)
        assert (clock.slept, ray.observer.of(AttemptFailed)) == ([], [])
        assert ray.attempts.count == 6


@pytest.mark.parametrize("way", ["fin", "rst"])
async def test_all_idle_connections_may_be_closed_at_once(way: Way) -> None:
    """After a proxy closed all idle connections, the next request is answered without a failed attempt."""
    clock = ManualClock()
    async with (
        FakeReplica() as replica,
        Middlebox(replica, way=way).listening() as box,
        ray_harness(box.url, clock=clock) as ray,
    ):
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ray.ask())
        box.hang_up()
        assert await ray.ask() == TEXT
        assert (clock.slept, ray.observer.of(AttemptFailed)) == ([], [])


async def test_a_server_with_a_short_idle_timeout() -> None:
    """An idle connection that the server closed after 0.2 s is not used again."""
    async with (
        FakeReplica() as replica,
        Middlebox(replica).listening() as box,
        ray_harness(box.url) as ray,
    ):
        assert await ray.ask() == TEXT
        await CLOCK.sleep(0.2)
        box.hang_up()
        await CLOCK.sleep(0.05)
        assert await ray.ask() == TEXT
        assert (box.connections, ray.observer.of(AttemptFailed)) == (2, [])


async def test_a_fresh_connection_that_breaks_is_a_failure() -> None:
    """A reset of a new connection counts as a failed attempt and is not retried on another connection."""
    async with FakeReplica() as replica, ray_harness(replica.url, max_scale_cycles=1) as ray:
        replica.always = Reset()
        with pytest.raises(EndpointUnreachable):
            await ray.ask()
        assert len(replica.received) == 1
        assert [event.reason for event in ray.observer.of(AttemptFailed)] == ["transport_error"]


async def test_retries_on_a_server_that_resets_everything_are_bounded() -> None:
    """If the server resets all connections, each idle one is tried at most once; then the attempt fails."""
    async with FakeReplica() as replica, ray_harness(replica.url, max_scale_cycles=1) as ray:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(ray.ask())
        replica.always = Reset()
        with pytest.raises(EndpointUnreachable):
            await ray.ask()
        assert len(replica.received) <= 3 + 3 + 1
        assert len(ray.observer.of(AttemptFailed)) == 1
