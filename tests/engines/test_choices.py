"""Several choices of one request, merged into one stream."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import orjson
import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import DeadlineExceeded, GenerationInterrupted, Overloaded
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.choices import stream_choices
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import DONE, EventSplitter
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def ask(n: int, seed: int | None = None) -> GenerationRequest:
    return GenerationRequest(
        messages=(Message(role="user", content="good morning to everybody"),),
        request_id="req-1",
        sampling=Sampling(n=n, seed=seed),
    )


async def started(**plan: object) -> FakeEngine:
    engine = FakeEngine(FakePlan(**plan), clock=SystemClock())
    await engine.start()
    return engine


async def test_every_choice_is_whole_and_they_are_counted_together() -> None:
    """A request for three choices gets three complete texts, three finish reasons, one usage and one `[DONE]`."""
    engine = await started(slots=2, token_delay=0.001)
    async with stream_choices(ask(3), engine.stream, at_once=3) as blocks:
        raw = b"".join([block async for block in blocks])
    accumulated = AnswerAccumulator(3)
    events = EventSplitter().feed(raw)
    for event in events[:-1]:
        accumulated.add(read_chunk(event))
    completion = accumulated.completion(engine.origin)
    assert [choice.text for choice in completion.choices] == [
        "[1] you said: good morning to everybody"
    ] * 3
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3 * 7
    assert completion.usage.per_choice == (7, 7, 7)
    assert raw.count(DONE) == 1
    assert raw.endswith(DONE)
    assert {orjson.loads(event.data)["id"] for event in events[:-1]} == {"chatcmpl-req-1"}


async def test_seed_differs_from_choice_to_choice() -> None:
    """Each choice gets its own seed, since with the same seed all sampled choices would be equal."""
    seeds = []

    @asynccontextmanager
    async def note(one: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        seeds.append((one.sampling.seed, one.sampling.n))
        async with engine.stream(one) as blocks:
            yield blocks

    engine = await started()
    async with stream_choices(ask(3, seed=7), note, at_once=3) as blocks:
        async for _ in blocks:
            pass
    assert sorted(seeds) == [(7, 1), (8, 1), (9, 1)]


async def test_refusal_before_the_first_word_is_raised_on_entering() -> None:
    """If the engine refuses before the first token, the error is raised before the stream is opened."""

    @asynccontextmanager
    async def full(_: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        raise Overloaded(retry_after=2.0)
        yield

    with pytest.raises(Overloaded):
        async with stream_choices(ask(2), full, at_once=3):
            pass


async def test_one_cut_choice_cuts_the_answer() -> None:
    """If one choice breaks off, the stream raises `GenerationInterrupted` and has no `[DONE]`."""
    engine = await started(cut_after_tokens=2, token_delay=0.001)
    read: list[bytes] = []

    async def read_on(blocks: AsyncIterator[bytes]) -> None:
        async for block in blocks:
            read.append(block)  # noqa: PERF401 (blocks before the cut are kept)

    async with stream_choices(ask(2), engine.stream, at_once=3) as blocks:
        with pytest.raises(GenerationInterrupted):
            await read_on(blocks)
    assert read
    assert DONE not in b"".join(read)


async def test_leaving_stops_every_choice() -> None:
    """If the caller leaves the stream, the slots of all choices become free."""
    engine = await started(slots=3, token_delay=10.0)
    async with stream_choices(ask(3), engine.stream, at_once=3) as blocks:
        await anext(blocks)
        assert engine.busy == 3
    await eventually(lambda: engine.busy == 0, seconds=1)


async def test_unexpected_failure_of_a_choice_is_raised_not_waited_for() -> None:
    """An unexpected error of one choice is raised at once; the stream does not wait for the choice."""

    @asynccontextmanager
    async def broken(_: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        raise KeyError("choices")
        yield

    async with asyncio.timeout(5):
        with pytest.raises(KeyError):
            async with stream_choices(ask(2), broken, at_once=3):
                pass


async def test_passed_deadline_stays_a_passed_deadline() -> None:
    """A deadline that passes in a choice is raised as `DeadlineExceeded` (504), not as an interrupted answer (500)."""
    engine = await started(token_delay=0.001)

    @asynccontextmanager
    async def late(one: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        async def blocks() -> AsyncIterator[bytes]:
            async with engine.stream(one) as events:
                yield await anext(events)
            raise DeadlineExceeded

        yield blocks()

    async with stream_choices(ask(2), late, at_once=3) as merged:
        with pytest.raises(DeadlineExceeded):
            await drain(merged)


async def drain(blocks: AsyncIterator[bytes]) -> None:
    async for _ in blocks:
        pass
