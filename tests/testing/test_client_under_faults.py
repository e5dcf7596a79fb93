"""`LLMIntegration` with a fake replica that has a fault, and a healthy Ollama as fallback.

Each request gets the whole right answer or an error, in bounded time, and the next request is answered.
"""

from __future__ import annotations

import tracemalloc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import CallerError
from mongars.inference.config import InferenceConfig
from mongars.inference.events import Moved
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import (
    TEXT,
    Body,
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
from mongars.testing.inference import Stack, build, question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.inference.provider import Route

CLOCK = SystemClock()
MIB = 1024 * 1024
CUT = FaultyResponse(cut_after=40)
PATIENT = 10.0
HASTY = 0.4


class World(NamedTuple):
    primary: FakeReplica
    fallback: FakeOllama
    stack: Stack

    async def ask(self, *, streamed: bool) -> Route:
        """Send a question, check the whole answer, and return its route."""
        if streamed:
            accumulated = AnswerAccumulator()
            async with self.stack.integration.open(question()) as answer:
                async for chunk in answer:
                    accumulated.add(chunk)
                completion, route = accumulated.completion(answer.origin), answer.route
        else:
            completion, route = await self.stack.integration.generate(question())
        assert (completion.text, completion.finish_reason) == (TEXT, "stop")
        return route


@asynccontextmanager
async def world(*, patience: float = PATIENT, **settings: float) -> AsyncIterator[World]:
    async with FakeReplica() as primary, FakeOllama() as fallback:
        config = InferenceConfig(
            endpoints=(primary.url,),
            use_ray=True,
            ollama_host=fallback.base,
            ollama_model="fake",
            timeout=patience,
            scaling_backoff=(0.05, 0.1),
            **settings,
        )
        stack = build(config)
        async with stack.integration:
            yield World(primary, fallback, stack)


both = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])


def name(fault: Fault) -> str:
    return repr(fault)[:70]


@both
@pytest.mark.parametrize(
    ("fault", "provider", "patience"),
    [
        (TrickledHead(byte_delay=0.0005), "ray_serve", PATIENT),
        (TrickledHead(byte_delay=0.05), "ollama", HASTY),
        (SlowBody(seconds=0.1), "ray_serve", PATIENT),
        (SlowBody(seconds=60), "ollama", HASTY),
        (Silence(seconds=0.05), "ollama", PATIENT),
        (FaultyResponse(stall_after=20, stall_seconds=0.1), "ray_serve", PATIENT),
        (HugeEvent(mib=8), "ollama", PATIENT),
        (Body(data=b'{"content": "' + b"x" * (17 * MIB) + b'"}'), "ollama", PATIENT),
        (WrongLength(by=10), "ray_serve", PATIENT),
        (WrongLength(by=10, hold_open=True), "ray_serve", PATIENT),
        (WrongLength(by=10, whole=True), "ollama", PATIENT),
        (WrongLength(by=10, whole=True, hold_open=True), "ollama", HASTY),
        (WrongLength(by=-20), "ray_serve", PATIENT),
        (WrongLength(by=-20, hold_open=True), "ray_serve", PATIENT),
        (WrongLength(by=-20, whole=True), "ollama", PATIENT),
        (DisguisedError(), "ollama", PATIENT),
        (DisguisedError(detail="scaling"), "ollama", PATIENT),
        (NoContinuation(), "ray_serve", PATIENT),
        (FalseContinuation(), "ray_serve", PATIENT),
    ],
    ids=name,
)
async def test_who_answers(fault: Fault, provider: str, patience: float, streamed: bool) -> None:
    """With each fault the whole answer comes within 15 s from the provider in the table; no request stays open."""
    async with world(patience=patience) as it:
        it.primary.always = fault
        began = CLOCK.monotonic()
        assert (await it.ask(streamed=streamed)).provider == provider
        assert CLOCK.monotonic() - began < 15
        await it.ask(streamed=streamed)
        ray = (await it.stack.integration.status())[0]
        assert [endpoint.in_flight for endpoint in ray.endpoints] == [0]


@both
@pytest.mark.parametrize(
    "fault",
    [
        HugeEvent(after=10, mib=8),
        WrongLength(by=-3000),
        NoContinuation(otherwise=CUT),
        NoContinuation(code=409, error="conflict", otherwise=CUT),
        NoContinuation(code=500, error="inference_failed", otherwise=CUT),
        FalseContinuation(otherwise=CUT),
        InTurn(faults=(CUT, FaultyResponse(continues=True))),
        InTurn(faults=(CUT, HugeEvent(after=45, mib=8))),
    ],
    ids=name,
)
async def test_a_cut_in_the_middle_is_mended(fault: Fault, streamed: bool) -> None:
    """An answer that is cut is completed by the same endpoint or by the next provider, and equals the uncut answer."""
    async with world() as it:
        it.primary.always = fault
        await it.ask(streamed=streamed)
        assert it.stack.observer.of(Moved)
        assert len(it.primary.received) + len(it.fallback.received) <= 4


@both
async def test_a_true_continuation_is_used(streamed: bool) -> None:
    """An endpoint that can continue its answer generates only the rest, and no other provider is used."""
    async with world() as it:
        it.primary.faults.extend((CUT, FaultyResponse(continues=True)))
        await it.ask(streamed=streamed)
        assert [event.kind for event in it.stack.observer.of(Moved)] == ["continued"]
        assert it.fallback.received == []


@both
async def test_a_false_continuation_is_found_out(streamed: bool) -> None:
    """A continuation that comes from another adapter is discarded, and the answer is started again."""
    async with world() as it:
        it.primary.faults.extend((CUT, FalseContinuation(text="Nonsense.")))
        it.primary.always = Status(code=500, error="inference_failed")
        await it.ask(streamed=streamed)
        assert [event.kind for event in it.stack.observer.of(Moved)] == ["restarted"]


@both
@pytest.mark.parametrize("hold_open", [False, True])
async def test_bytes_of_one_answer_are_not_read_as_the_next(
    hold_open: bool, streamed: bool
) -> None:
    """Bytes beyond the announced length are not read as the next answer; their connection is not used again."""
    async with world() as it:
        it.primary.faults.append(WrongLength(by=-20, hold_open=hold_open))
        routes = [await it.ask(streamed=streamed) for _ in range(3)]
        assert (routes[0].provider, routes[2].provider) == ("ray_serve", "ray_serve")
        first, *_, last = (request.connection for request in it.primary.received)
        assert first != last


@both
async def test_an_answer_nobody_asked_for_is_nobodys(streamed: bool) -> None:
    """A response without a request is not read as the answer to the next request, which may be another user's."""
    async with world() as it:
        it.primary.faults.append(StrayAnswer())
        for _ in range(3):
            assert (await it.ask(streamed=streamed)).provider == "ray_serve"
            for _ in range(10):  # many turns of the event loop, so that bytes in transit arrive
                await CLOCK.sleep(0.03)
        first, second, third = (request.connection for request in it.primary.received)
        assert first != second == third


@both
async def test_the_callers_own_mistake_in_disguise_is_told(streamed: bool) -> None:
    """A request error that the replica sends with status 200 is raised as `CallerError`, without a fallback."""
    async with world() as it:
        it.primary.always = DisguisedError(error="invalid_request", detail="No such thing.")
        with pytest.raises(CallerError, match="No such thing"):
            await it.ask(streamed=streamed)
        assert it.fallback.received == []


@both
@pytest.mark.parametrize(
    "flapping",
    [
        InTurn(faults=(FaultyResponse(), Status(code=503, error="overloaded"))),
        InTurn(faults=(Reset(), FaultyResponse(), CUT)),
        Flapping(up=0.05, down=0.05),
        Flapping(up=0.05, down=0.1, begins="down", when_down=Reset()),
    ],
    ids=name,
)
async def test_an_endpoint_that_comes_and_goes_costs_no_answer(
    flapping: Fault, streamed: bool
) -> None:
    """If an endpoint fails and recovers again and again, all 12 requests are answered, with few attempts."""
    async with world() as it:
        it.primary.always = flapping
        for _ in range(12):
            await it.ask(streamed=streamed)
            await CLOCK.sleep(0.02)
        assert len(it.primary.received) <= 12 * 4


@both
async def test_a_huge_event_does_not_fill_the_memory(streamed: bool) -> None:
    """Of an event of 512 MiB, the client reads no more than the limit for one event, then closes the connection."""
    async with world() as it:
        it.primary.always = HugeEvent(after=10, mib=512)
        tracemalloc.start()
        try:
            await it.ask(streamed=streamed)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 64 * MIB
        assert not any(request.answered for request in it.primary.received)
