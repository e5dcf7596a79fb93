"""The fake replica: it speaks the replica's protocol, has faults in order, and can be restarted."""

from __future__ import annotations

import aiohttp
import pytest

from mongars.core.generation import GenerationRequest, Message
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.generate import GenerateRequest, request_body
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, FaultyResponse, Reset, Status

BODY = request_body(
    GenerationRequest(messages=(Message(role="user", content="Hi"),), request_id="req-1"),
    stream=True,
)


async def post(replica: FakeReplica, **extra: object) -> tuple[int, bytes]:
    body = {**BODY, **extra}
    async with aiohttp.ClientSession() as session, session.post(replica.url, json=body) as response:
        return response.status, await response.read()


def test_what_we_send_is_what_the_protocol_reads() -> None:
    """The body our client sends is a valid `/generate` request."""
    assert GenerateRequest.model_validate(BODY).to_generation(request_id="req-1").messages


async def test_the_fake_speaks_the_protocol() -> None:
    """The fake replica streams meta, chunks, counts and `[DONE]`, and the production parsers read them."""
    async with FakeReplica() as replica:
        status, data = await post(replica)
    events = EventSplitter().feed(data)
    assert status == 200
    assert events[0].name == "meta"
    assert events[-1].is_done
    accumulated = AnswerAccumulator()
    for event in events[1:-1]:
        accumulated.add(read_chunk(event))
    assert (accumulated.text, accumulated.finish_reason) == (TEXT, "stop")
    assert accumulated.usage is not None


async def test_without_stream_it_answers_in_one_piece() -> None:
    """With `stream: false`, the fake replica answers with the text in one piece."""
    async with FakeReplica() as replica:
        _, data = await post(replica, stream=False)
    assert TEXT.encode() in data


async def test_faults_are_taken_in_order_and_then_it_is_healthy() -> None:
    """Queued faults occur first and in order, then `always`, which is a healthy answer by default."""
    async with FakeReplica(Status(code=503, error="overloaded"), Reset()) as replica:
        status, data = await post(replica)
        assert (status, b'"error":"overloaded"' in data) == (503, True)
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(replica)
        assert (await post(replica))[0] == 200
        replica.always = FaultyResponse(text="other")
        assert b"other" in (await post(replica))[1]
        assert [received.answered for received in replica.received] == [True, False, True, True]


async def test_it_comes_back_on_the_same_port() -> None:
    """A fake replica that is stopped and started again has the same port, like a restarted server."""
    async with FakeReplica() as replica:
        url = replica.url
        await replica.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(replica)
        await replica.start()
        assert replica.url == url
        assert (await post(replica))[0] == 200
