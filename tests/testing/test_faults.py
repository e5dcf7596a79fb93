"""Each fault of the fake replica as a client sees it, in raw bytes or through aiohttp."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from mongars.core.clock import SystemClock
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import (
    TEXT,
    DisguisedError,
    FalseContinuation,
    Fault,
    FaultyResponse,
    Flapping,
    HugeEvent,
    InTurn,
    NoContinuation,
    Reset,
    Silence,
    SlowBody,
    Status,
    StrayAnswer,
    TrickledHead,
    WrongLength,
)
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLOCK = SystemClock()
BEGUN = {
    "text": "word0 word1",
    "model": "fake-135m",
    "adapter_version": "v7",
    "adapter_digest": "d" * 64,
}


@asynccontextmanager
async def response(
    replica: FakeReplica, *, stream: bool = True, **extra: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    body = {"prompt": "Hi", "stream": stream, **extra}
    async with aiohttp.ClientSession() as session, session.post(replica.url, json=body) as reply:
        yield reply


async def ask(replica: FakeReplica, **extra: Any) -> tuple[int, bytes]:
    async with response(replica, **extra) as reply:
        return reply.status, await reply.read()


async def raw(
    replica: FakeReplica, *, stream: bool = True, until: bytes | None = None
) -> list[bytes]:
    """The pieces of bytes that arrive on the connection, all of them or until they contain `until`."""
    parts = urlsplit(replica.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    body = orjson.dumps({"prompt": "Hi", "stream": stream})
    writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    pieces = []
    try:
        while piece := await reader.read(65_536):
            pieces.append(piece)
            if until is not None and until in b"".join(pieces):
                break
    finally:
        writer.close()
    return pieces


def text_in(data: bytes) -> str:
    accumulated = AnswerAccumulator()
    for event in EventSplitter().feed(data):
        if event.name == "message" and not event.is_done:
            accumulated.add(read_chunk(event))
    return accumulated.text


async def test_a_trickled_head_comes_byte_by_byte() -> None:
    """A trickled head arrives byte by byte, and a healthy answer follows."""
    async with FakeReplica(TrickledHead(byte_delay=0.002)) as replica:
        pieces = await raw(replica)
    head, _, body = b"".join(pieces).partition(b"\r\n\r\n")
    assert len(pieces) > 20
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert text_in(body) == TEXT


async def test_a_huge_event_is_one_event() -> None:
    """A huge event is a single event of more than 2 MiB in an otherwise normal stream."""
    async with FakeReplica(HugeEvent(after=2, mib=2)) as replica:
        _, data = await ask(replica)
    events = sorted(data.split(b"\n\n"), key=len)
    assert len(events[-1]) > 2 * 1024 * 1024 > len(events[-2])
    text = text_in(data)
    assert text.startswith("word0 word1xxx")
    assert text.replace("x", "") == TEXT.replace("x", "")


async def test_a_huge_whole_answer() -> None:
    """Without a stream, the huge event is a body with 2 MiB of text."""
    async with FakeReplica(HugeEvent(mib=2)) as replica:
        _, data = await ask(replica, stream=False)
    assert len(orjson.loads(data)["content"]) == 2 * 1024 * 1024


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_more_is_announced_than_sent(stream: bool) -> None:
    """If more bytes are announced than sent, the client sees an incomplete body."""
    async with FakeReplica(WrongLength(by=10)) as replica, response(replica, stream=stream) as got:
        with pytest.raises(aiohttp.ClientPayloadError):
            await got.read()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_less_is_announced_than_sent(stream: bool) -> None:
    """If fewer bytes are announced than sent, the surplus follows on the same connection."""
    async with FakeReplica(WrongLength(by=-10)) as replica:
        data = b"".join(await raw(replica, stream=stream))
    head, _, body = data.partition(b"\r\n\r\n")
    announced = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    assert len(body) == announced + 10


async def test_who_waits_for_the_rest_waits() -> None:
    """If the connection stays open, a client that waits for the missing bytes waits until its own timeout."""
    fault = WrongLength(by=10, whole=True, hold_open=True)
    async with FakeReplica(fault) as replica, response(replica) as got:
        assert got.content_type == "application/json"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await got.read()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_stray_answer_follows_a_right_one(stream: bool) -> None:
    """A stray answer is a second complete response on the same connection, after the right one."""
    async with FakeReplica(StrayAnswer(text="Not yours.")) as replica:
        pieces = await raw(replica, stream=stream, until=b"Not yours.")
    first, second = b"".join(pieces).split(b"HTTP/1.1 200 OK")[1:]
    assert b"fin." in first
    assert b"Not yours." in second


async def test_a_slow_body_follows_a_quick_head() -> None:
    """A slow body follows a head that is sent at once."""
    async with FakeReplica(SlowBody(seconds=0.5)) as replica:
        began = CLOCK.monotonic()
        async with response(replica) as got:
            assert got.status == 200
            body = await got.json()
        assert body["content"] == TEXT
        assert CLOCK.monotonic() - began > 0.4


async def test_an_error_in_disguise_is_a_200() -> None:
    """A disguised error has status 200, an empty text and an `error`."""
    async with FakeReplica(DisguisedError(error="inference_failed", detail="no")) as replica:
        status, data = await ask(replica)
    told = orjson.loads(data)
    assert status == 200
    assert (told["content"], told["error"], told["detail"]) == ("", "inference_failed", "no")


async def test_silence_ends_with_a_reset() -> None:
    """Silence for 0.05 s ends with a reset of the connection."""
    async with FakeReplica(Silence(seconds=0.05)) as replica:
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(replica)


async def test_it_goes_up_and_down_by_its_clock() -> None:
    """A flapping replica answers and fails in turn, for the given seconds of its clock."""
    clock = ManualClock()
    async with FakeReplica(clock=clock) as replica:
        replica.always = Flapping(up=3, down=2)
        found = []
        for _ in range(10):
            found.append((await ask(replica, stream=False))[0])
            await clock.advance(1)
        assert found == [200, 200, 200, 503, 503] * 2
        replica.always = Flapping(up=1, down=2, begins="down", when_down=Status(code=500))
        found = []
        for _ in range(4):
            found.append((await ask(replica, stream=False))[0])
            await clock.advance(1)
        assert found == [500, 500, 200, 500]


async def test_faults_in_turn_begin_again() -> None:
    """Faults in turn begin again after the last one."""
    async with FakeReplica() as replica:
        replica.always = InTurn(faults=(Status(code=503), FaultyResponse(), Status(code=429)))
        found = [(await ask(replica, stream=False))[0] for _ in range(7)]
    assert found == [503, 200, 429, 503, 200, 429, 503]


async def test_turns_within_turns() -> None:
    """Nested faults in turn advance by one each time the outer list reaches them."""
    inner = InTurn(faults=(Status(code=500), Status(code=502)))
    async with FakeReplica() as replica:
        replica.always = InTurn(faults=(FaultyResponse(), inner))
        found = [(await ask(replica, stream=False))[0] for _ in range(6)]
    assert found == [200, 500, 200, 502, 200, 500]


async def test_a_continuation_is_refused_and_nothing_else() -> None:
    """A continuation is refused with 400, and other requests are answered."""
    async with FakeReplica() as replica:
        replica.always = NoContinuation()
        assert text_in((await ask(replica))[1]) == TEXT
        status, data = await ask(replica, continue_from=BEGUN)
        assert (status, orjson.loads(data)["error"]) == (400, "invalid_request")


async def test_a_false_continuation_claims_to_be_one() -> None:
    """A false continuation has the header `x-continued`, but another adapter's version and text."""
    async with FakeReplica() as replica:
        replica.always = FalseContinuation(text="Not that.")
        assert text_in((await ask(replica))[1]) == TEXT
        async with response(replica, continue_from=BEGUN) as got:
            assert got.headers["x-continued"] == "true"
            assert got.headers["x-adapter-version"] == "another"
            assert text_in(await got.read()) == "Not that."


@pytest.mark.parametrize(
    ("changed", "continued"),
    [({}, True), ({"text": "word0 wor"}, False), ({"adapter_version": "v6"}, False)],
    ids=["its own", "in the middle of a token", "of another adapter"],
)
async def test_a_true_continuation_sends_the_rest(changed: dict[str, str], continued: bool) -> None:
    """Only the replica's own answer is continued; otherwise a new answer starts, without `x-continued`."""
    async with FakeReplica() as replica:
        replica.always = FaultyResponse(continues=True)
        async with response(replica, continue_from={**BEGUN, **changed}) as got:
            assert (got.headers.get("x-continued") == "true") is continued
            text = text_in(await got.read())
    assert (BEGUN["text"] + text if continued else text) == TEXT


@pytest.mark.parametrize(
    "fault", [Reset(), TrickledHead(byte_delay=0), WrongLength(by=0), HugeEvent(mib=1)], ids=repr
)
async def test_afterwards_the_fake_is_healthy(fault: Fault) -> None:
    """A fault affects one request only: the next one gets a healthy answer."""
    async with FakeReplica(fault) as replica:
        try:
            await ask(replica)
        except aiohttp.ClientError:
            assert isinstance(fault, Reset)
        assert text_in((await ask(replica))[1]) == TEXT
        assert [request.met for request in replica.received] == [fault.kind, "answer"]


@pytest.mark.parametrize("body", [b"{", b"[]", b""])
async def test_what_is_no_request_is_refused_and_costs_no_fault(body: bytes) -> None:
    """A body that is no request is refused with 400, as by the real ingress, and uses up no queued fault."""
    async with FakeReplica(Reset()) as replica, aiohttp.ClientSession() as session:
        async with session.post(replica.url, data=body) as got:
            assert (got.status, (await got.json())["error"]) == (400, "invalid_request")
        assert (len(replica.faults), replica.received) == (1, [])
