"""Measure how soon a replica notices that a client of the API has disconnected, in every phase of an answer.

`python -m benchmarks.leaving` starts API processes in front of fake replicas and disconnects from them. Both sides
use the same clock, so the benchmark must run on one machine.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import uvloop

from benchmarks.foundation import milliseconds, say
from benchmarks.gateway import mongars
from mongars.core.clock import SystemClock
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import Fault, FaultyResponse, Silence, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from benchmarks.gateway import Gateway

CLOCK = SystemClock()
ROUNDS = 15
HEDGE_SECONDS = 0.5
SLOW = FaultyResponse(first_delay=60.0)
PHASES: dict[str, Fault] = {
    "before the head": Silence(),
    "before the first token": SLOW,
    "before the first token, with keep-alives": FaultyResponse(first_delay=60.0, keepalives=True),
    "in the middle": FaultyResponse(token_delay=0.05),
    "while the stream stalls": FaultyResponse(stall_after=5),
}


class Client:
    """A client that sends requests to the API and disconnects."""

    def __init__(self, http: aiohttp.ClientSession, gateway: Gateway) -> None:
        self._http = http
        self._headers = dict(gateway.target.headers)
        self._url = f"http://127.0.0.1:{gateway.target.port}{gateway.target.path}"

    async def ask(self, *, stream: bool) -> None:
        """Send one request and read its whole answer."""
        body = {
            "model": "mongars",
            "messages": [{"role": "user", "content": "Say the words."}],
            "stream": stream,
        }
        async with self._http.post(self._url, json=body, headers=self._headers) as response:
            await response.read()

    async def leave_when(self, reached: Callable[[], bool], *, stream: bool) -> float:
        """Send a request, disconnect 0.15 s after `reached` is true, and return the time of that."""
        left = 0.0
        async with asyncio.TaskGroup() as group:
            question = group.create_task(self.ask(stream=stream))
            while not reached():
                await CLOCK.sleep(0.002)
            await CLOCK.sleep(0.15)  # so that the request is in the phase that is measured
            left = CLOCK.monotonic()
            question.cancel()
        return left


@asynccontextmanager
async def api(*found: FakeReplica, **variables: str) -> AsyncIterator[Client]:
    """An API process in front of these replicas, with these variables."""
    async with AsyncExitStack() as stack:
        urls = ",".join(replica.url for replica in found)
        context = mongars(urls, **variables)
        gateway = await asyncio.to_thread(context.__enter__)
        stack.push_async_callback(asyncio.to_thread, context.__exit__, None, None, None)
        http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        client = Client(await stack.enter_async_context(http), gateway)
        while True:
            try:
                await client.ask(stream=False)
                break
            except aiohttp.ClientError:
                await CLOCK.sleep(0.1)
        yield client


async def heard(replica: FakeReplica, left: float) -> float:
    """The seconds from the disconnect until the replica noticed."""
    last = replica.received[-1]
    async with asyncio.timeout(5.0):
        await last.peer_left.wait()
    return (last.left_at or 0.0) - left


async def phases() -> None:
    """Measure every phase with one replica, streamed and whole."""
    async with FakeReplica() as replica, api(replica) as client:
        for name, fault in PHASES.items():
            for stream in (True, False):
                times = []
                for _ in range(ROUNDS):
                    replica.always = fault
                    before = len(replica.received)
                    left = await client.leave_when(
                        lambda before=before: len(replica.received) > before,  # type: ignore[misc]
                        stream=stream,
                    )
                    times.append(await heard(replica, left))
                what = f"{name}, {'streamed' if stream else 'whole'}"
                say(f"replica hears of it, {what:<49} {milliseconds(times)}")


async def queue() -> None:
    """Measure that a request whose client leaves the queue is not sent, and that its place is free at once."""
    async with (
        FakeReplica() as replica,
        api(replica, RAY_CLIENT_MAX_CONNECTIONS="1") as client,
    ):
        replica.always = FaultyResponse(token_delay=0.1)  # longer than the queueing clients stay
        before = len(replica.received)
        async with asyncio.TaskGroup() as group:
            group.create_task(client.ask(stream=True))
            while len(replica.received) == before:
                await CLOCK.sleep(0.002)
            for _ in range(ROUNDS):
                await client.leave_when(lambda: True, stream=True)
            group.create_task(client.ask(stream=True))
        sent = len(replica.received) - before
        say(f"sent of {ROUNDS} that left the queue: {sent - 2}; the one behind them was answered")


async def between_attempts() -> None:
    """Measure that a client that leaves during the wait before a retry causes no further attempt."""
    async with FakeReplica() as replica, api(replica) as client:
        busy = Status(code=503, error="overloaded", headers={"Retry-After": "1"})
        extra = 0
        for _ in range(3):
            replica.always = busy
            before = len(replica.received)
            await client.leave_when(
                lambda before=before: len(replica.received) > before,  # type: ignore[misc]
                stream=True,
            )
            await CLOCK.sleep(2.5)
            extra += len(replica.received) - before - 1
            replica.always = FaultyResponse()
            await client.ask(stream=False)
        say(f"attempts after leaving while a retry waited: {extra} of 3")


async def hedge() -> None:
    """Measure how soon both replicas, that of the attempt and that of its hedge, notice the disconnect."""
    async with (
        FakeReplica(name="one") as one,
        FakeReplica(name="two") as two,
        api(one, two, RAY_CLIENT_HEDGE="true") as client,
    ):
        both = (one, two)
        times: list[float] = []
        while len(times) < 2 * ROUNDS:
            one.always = two.always = FaultyResponse()
            for _ in range(40):
                await client.ask(stream=False)
            one.always = two.always = SLOW
            counts = [len(replica.received) for replica in both]
            by = CLOCK.monotonic() + HEDGE_SECONDS

            def reached(by: float = by) -> bool:
                return CLOCK.monotonic() > by  # the budget of hedges may not allow one

            left = await client.leave_when(reached, stream=True)
            asked = [r for r, count in zip(both, counts, strict=True) if len(r.received) > count]
            if len(asked) == len(both):
                times += [await heard(replica, left) for replica in both]
        say(f"replicas hear of it, with a hedge under way      {milliseconds(times)}")


PARTS: tuple[Callable[[], Coroutine[None, None, None]], ...] = (
    phases,
    queue,
    between_attempts,
    hedge,
)


async def measure() -> None:
    """Run all parts."""
    for part in PARTS:
        await part()


if __name__ == "__main__":
    uvloop.run(measure())
