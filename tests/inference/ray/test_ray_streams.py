from __future__ import annotations

import orjson
import pytest
from ray_harness import name, ray_harness, read_into

from mongars.core.clock import SystemClock
from mongars.core.errors import (
    GenerationInterrupted,
)
from mongars.core.generation import BASE_ADAPTER
from mongars.inference.events import AttemptFailed
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.sse import EventSplitter
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Body, FaultyResponse, Status

BUSY = Status(code=503, error="overloaded", detail="full")
REFUSED = "http://127.0.0.1:9/generate"
"""A URL that refuses connections: nothing listens on the discard port."""


async def test_a_healthy_answer_comes_whole_and_with_its_origin() -> None:
    """An answer's text, model, adapter version and replica are those that the replica reports."""
    async with FakeReplica() as replica, ray_harness(replica.url) as ray, ray.open() as stream:
        text = "".join([chunk.text async for chunk in stream.chunks])
        assert text == TEXT
        assert stream.origin == replica.origin


async def test_the_bytes_of_a_stream_are_passed_through() -> None:
    """The raw events of the chunks are the replica's own, with its id and usage."""
    async with FakeReplica() as replica, ray_harness(replica.url) as ray, ray.open() as stream:
        raw = b"".join([chunk.raw async for chunk in stream.chunks])
    events = EventSplitter().feed(raw)
    bodies = [orjson.loads(event.data) for event in events]
    assert {body["id"] for body in bodies} == {"chatcmpl-fake"}
    assert bodies[-1]["usage"]["completion_tokens"] == 60


@pytest.mark.parametrize("block", [1, 3, 7])
async def test_characters_split_across_network_blocks_survive(block: int) -> None:
    """Characters of several bytes are read correctly however the network splits them."""
    said = "Déjà-vu: 5 € für 😀 — 終わり."
    async with (
        FakeReplica(FaultyResponse(text=said, block=block)) as replica,
        ray_harness(replica.url) as ray,
    ):
        assert await ray.ask() == said


async def test_what_the_replica_is_sent() -> None:
    """The replica receives the request id, the remaining time in ms and, of the session id, only a hash."""
    async with FakeReplica() as replica, ray_harness(replica.url) as ray:
        await ray.ask(seconds=20)
    (received,) = replica.received
    assert received.headers["x-request-id"].startswith("req-")
    assert 19_000 < int(received.headers["x-request-timeout-ms"]) <= 20_000
    assert "session-of-somebody" not in str(received.headers)
    assert len(received.headers["x-session-id"]) == 32
    assert received.body["prompt"] == "Say the words."
    assert received.body["stream"] is True


@pytest.mark.parametrize(
    "fault",
    [
        FaultyResponse(cut_after=20),
        FaultyResponse(cut_after=20, cut="abort"),
        FaultyResponse(cut_after=20, cut="abort", token_delay=0.001),
        FaultyResponse(stall_after=20),
        FaultyResponse(stall_after=20, keepalives=True),
        FaultyResponse(malformed_after=20, token_delay=0.001),
        FaultyResponse(error_after=20, token_delay=0.001),
        FaultyResponse(finish=False, done=False),
    ],
    ids=name,
)
async def test_no_cut_stream_ends_like_a_complete_one(fault: FaultyResponse) -> None:
    """A stream that breaks off in any way after its first token raises, and the request is not sent again."""
    async with FakeReplica(fault) as replica, ray_harness(replica.url, idle_timeout=0.2) as ray:
        accumulated = AnswerAccumulator()
        async with ray.open() as stream:
            with pytest.raises(GenerationInterrupted):
                await read_into(accumulated, stream)
        assert TEXT.startswith(accumulated.text)
        assert accumulated.text
        assert len(replica.received) == 1
        assert [event.reason for event in ray.observer.of(AttemptFailed)] == ["interrupted"]


async def test_a_stall_is_named() -> None:
    """The error of a stalled stream names the idle timeout."""
    async with (
        FakeReplica(FaultyResponse(stall_after=3)) as replica,
        ray_harness(replica.url, idle_timeout=0.1) as ray,
    ):
        with pytest.raises(GenerationInterrupted, match="idle"):
            await ray.ask()


async def test_the_total_time_bounds_a_stream() -> None:
    """A stream is cut at its deadline with an error that names the total time."""
    async with (
        FakeReplica(FaultyResponse(text="word " * 1000, token_delay=0.01)) as replica,
        ray_harness(replica.url) as ray,
    ):
        with pytest.raises(GenerationInterrupted, match="total time"):
            await ray.ask(seconds=0.3)


async def test_a_long_stream_that_flows_is_left_alone() -> None:
    """A stream may take longer than the idle timeout, which applies between tokens."""
    async with (
        FakeReplica(FaultyResponse(token_delay=0.02)) as replica,
        ray_harness(replica.url, timeout=0.5, idle_timeout=0.5) as ray,
    ):
        assert await ray.ask() == TEXT


async def test_an_end_without_done_is_not_waited_for_long() -> None:
    """A replica that sends no `[DONE]` and keeps the connection open delays the end by less than 4 s."""
    clock = SystemClock()
    async with (
        FakeReplica(FaultyResponse(done=False, hold_open=True)) as replica,
        ray_harness(replica.url) as ray,
    ):
        start = clock.monotonic()
        assert await ray.ask() == TEXT
        assert clock.monotonic() - start < 4


async def test_a_missing_done_mark_after_a_finish_reason_is_accepted() -> None:
    """A stream with a finish reason but without `[DONE]` is complete."""
    async with (
        FakeReplica(FaultyResponse(done=False)) as replica,
        ray_harness(replica.url) as ray,
        ray.open() as stream,
    ):
        assert "".join([chunk.text async for chunk in stream.chunks]) == TEXT
        assert stream.chunks.usage is not None


async def test_streamed_and_whole_answers_are_the_same() -> None:
    """A whole response gives the same text, token counts and origin as a streamed one."""
    all_accumulated = []
    async with (
        FakeReplica(FaultyResponse(), FaultyResponse(whole=True)) as replica,
        ray_harness(replica.url) as ray,
    ):
        for _ in range(2):
            accumulated = AnswerAccumulator()
            async with ray.open() as stream:
                async for chunk in stream.chunks:
                    accumulated.add(chunk)
            all_accumulated.append(accumulated.completion(stream.origin))
    assert all_accumulated[0] == all_accumulated[1]


@pytest.mark.parametrize(
    "body",
    [
        {"message": {"role": "assistant", "content": "Hello."}, "content": "not this"},
        {"content": "Hello."},
        {"response": "Hello.", "model": "old", "tokens_used": 1},
        {"content": "Hello.", "usage": {"model": "old", "generations": 1}},
        {"content": "Hello.", "usage": None, "error": None},
    ],
    ids="+".join,
)
async def test_answers_of_older_deployments_are_understood(body: dict[str, object]) -> None:
    """The text is read from `message.content`, `content` or `response`, in this order."""
    async with (
        FakeReplica(Body(data=orjson.dumps(body))) as replica,
        ray_harness(replica.url) as ray,
        ray.open() as stream,
    ):
        assert "".join([chunk.text async for chunk in stream.chunks]) == "Hello."
        assert stream.origin.adapter_version == BASE_ADAPTER
        assert stream.chunks.usage is None
