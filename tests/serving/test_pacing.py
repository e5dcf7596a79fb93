"""Pieces of streamed answers: sent at once for one answer, gathered for several, and never lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mongars.core.errors import GenerationInterrupted
from mongars.serving.pacing import MOST_HELD, Pacing
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Source:
    """Blocks of an answer, which the test supplies one by one."""

    def __init__(self) -> None:
        self._given: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.closed = False

    def give(self, *items: bytes | Exception | None) -> None:
        for item in items:
            self._given.put_nowait(item)

    async def blocks(self) -> AsyncIterator[bytes]:
        try:
            while (item := await self._given.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True


class Reader:
    """A client that collects the pieces of an answer."""

    def __init__(self) -> None:
        self.source = Source()
        self.pieces: list[bytes] = []
        self.failure: Exception | None = None
        self.complete = False

    async def read(self, pacing: Pacing, answers: int) -> None:
        async with pacing.gather(self.source.blocks(), answers=answers) as gathered:
            try:
                async for piece in gathered.pieces:
                    self.pieces.append(piece)
            except GenerationInterrupted as failure:
                self.failure = failure
            else:
                self.complete = True


class Answers:
    """The answers of one replica, each with its source and its reader."""

    def __init__(self, clock: ManualClock, *, longest: float = 0.2) -> None:
        self.clock = clock
        self._pacing = Pacing(clock, longest=longest)
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Answers:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)

    async def open(self, *, answers: int = 1) -> tuple[Source, Reader]:
        reader = Reader()
        self._tasks.append(self._group.create_task(reader.read(self._pacing, answers)))
        await self.clock.advance(0)
        return reader.source, reader


async def test_a_single_answer_is_passed_on_as_it_comes() -> None:
    """A single answer is passed on piece by piece, without waiting."""
    async with Answers(ManualClock()) as answers:
        source, reader = await answers.open()
        for count in (1, 2, 3):
            source.give(b"x")
            await answers.clock.advance(0)
            assert reader.pieces == [b"x"] * count
        source.give(None)
        await answers.clock.advance(0)
        assert reader.complete
        assert answers.clock.slept == []


async def test_several_answers_are_gathered_and_go_out_together() -> None:
    """Pieces of several answers are gathered and sent together, except the first of each."""
    async with Answers(ManualClock()) as answers:
        opened = [await answers.open() for _ in range(3)]
        for source, _ in opened:
            source.give(b"a")
        await answers.clock.advance(0)
        assert [reader.pieces for _, reader in opened] == [[b"a"]] * 3, (
            "the first piece never waits"
        )
        await answers.clock.advance(0.03)  # the interval of two answers; the next is of three
        for source, _ in opened:
            source.give(b"b", b"c")
        await answers.clock.advance(0.059)
        assert [reader.pieces for _, reader in opened] == [[b"a"]] * 3
        await answers.clock.advance(0.002)
        assert [reader.pieces for _, reader in opened] == [[b"a", b"bc"]] * 3


async def test_the_end_does_not_wait() -> None:
    """The last piece and the end of an answer are sent at once."""
    async with Answers(ManualClock()) as answers:
        await answers.open(answers=20)
        source, reader = await answers.open()
        source.give(b"a", b"b")
        await answers.clock.advance(0)
        source.give(b"c", None)
        await answers.clock.advance(0)
        assert b"".join(reader.pieces) == b"abc"
        assert reader.complete


async def test_a_failure_comes_after_all_that_was_written() -> None:
    """A failure is raised after all pieces that were written before."""
    async with Answers(ManualClock()) as answers:
        await answers.open()
        source, reader = await answers.open()
        source.give(b"a", b"b", b"c", GenerationInterrupted("cut"))
        await answers.clock.advance(0)
        assert b"".join(reader.pieces) == b"abc"
        assert str(reader.failure) == "cut"


async def test_no_token_waits_longer_than_the_bound() -> None:
    """A piece waits at most `longest` seconds."""
    async with Answers(ManualClock(), longest=0.2) as answers:
        source, reader = await answers.open(answers=100)
        source.give(b"a")
        await answers.clock.advance(0)
        source.give(b"b")
        await answers.clock.advance(0.2)
        assert reader.pieces == [b"a", b"b"]


async def test_the_last_answer_left_is_passed_on_at_once_again() -> None:
    """When only one answer is left, its pieces are passed on at once again."""
    async with Answers(ManualClock()) as answers:
        source, reader = await answers.open()
        other, _ = await answers.open()
        source.give(b"a")
        await answers.clock.advance(0)
        source.give(b"b")
        await answers.clock.advance(0)
        assert reader.pieces == [b"a"]
        other.give(None)
        await answers.clock.advance(1)
        assert reader.pieces == [b"a", b"b"]


async def test_zero_switches_it_off() -> None:
    """With `longest=0` pieces are passed on at once."""
    async with Answers(ManualClock(), longest=0) as answers:
        opened = [await answers.open() for _ in range(4)]
        for source, _ in opened:
            source.give(b"a")
        await answers.clock.advance(0)
        for source, reader in opened:
            source.give(b"b")
            await answers.clock.advance(0)
            assert reader.pieces == [b"a", b"b"]


@pytest.mark.parametrize("gone", ["before the first piece", "in the middle"])
async def test_leaving_stops_the_reading(gone: str) -> None:
    """If the reader leaves, the source is closed."""
    clock, source = ManualClock(), Source()
    pacing = Pacing(clock, longest=0.2)
    async with pacing.gather(source.blocks()) as gathered:
        if gone == "in the middle":
            source.give(b"a")
            assert await anext(gathered.pieces) == b"a"
        await clock.advance(0)
    assert source.closed
    assert pacing.interval == 0


async def test_what_was_read_is_available_after_an_interruption() -> None:
    """After an interruption, `rest` returns the pieces that were read but not sent."""
    clock, source = ManualClock(), Source()
    async with Pacing(clock, longest=0.2).gather(source.blocks(), answers=9) as gathered:
        source.give(b"a")
        assert await anext(gathered.pieces) == b"a"
        source.give(b"b", b"c")
        await clock.advance(0)
    assert gathered.rest() == b"bc"


async def test_an_engine_that_is_cancelled_does_not_look_complete() -> None:
    """An engine whose task is cancelled raises `CancelledError`; its answer does not look complete."""

    async def blocks() -> AsyncIterator[bytes]:
        yield b"a"
        raise asyncio.CancelledError

    async with Pacing(ManualClock(), longest=0.2).gather(blocks()) as gathered:
        assert await anext(gathered.pieces) == b"a"
        with pytest.raises(asyncio.CancelledError):
            await anext(gathered.pieces)


async def test_a_caller_who_does_not_read_holds_the_engine_back() -> None:
    """If the client does not read, at most about `MOST_HELD` bytes are read from the engine."""
    clock, block, read = ManualClock(), b"x" * 1000, []

    async def blocks() -> AsyncIterator[bytes]:
        for number in range(10 * MOST_HELD // len(block)):
            read.append(number)
            yield block

    async with Pacing(clock, longest=0.2).gather(blocks(), answers=9) as gathered:
        await clock.advance(1)
        assert len(read) * len(block) <= MOST_HELD + 2 * len(block)
        whole = b"".join([piece async for piece in gathered.pieces])
    assert len(whole) == len(read) * len(block) == 10 * MOST_HELD // len(block) * len(block)
