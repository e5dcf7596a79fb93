"""A replica shared by accounts: one that floods it does not exclude the others."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.core.deadline import Deadline
from mongars.core.errors import Overloaded
from mongars.core.fair_queue import Share
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.fake_embedder import FakeEmbedder
from mongars.protocol.generate import GenerateRequest, request_body
from mongars.serving.config import ReplicaConfig
from mongars.serving.replica import Replica
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mongars.engines.embedder import Embeddings

GENERATION = 10.0
"""Seconds that one choice takes."""
SLOTS = 4


def ask(scope: str, *, n: int = 1, weight: float = 1.0) -> GenerationRequest:
    return GenerationRequest(
        messages=(Message(role="user", content="Say hi."),),
        request_id="req-1",
        sampling=Sampling(n=n),
        scope=scope,
        weight=weight,
    )


class World:
    """A replica whose choices take ten seconds each, by a manual clock."""

    def __init__(self, **config: int) -> None:
        self.clock = ManualClock()
        plan = FakePlan(slots=SLOTS, first_token_delay=GENERATION)
        self.engine = FakeEngine(plan, clock=self.clock)
        self.replica = Replica(
            {"general": self.engine},
            ReplicaConfig(**config),
            clock=self.clock,
            replica_id="r1",
        )
        self.done: list[str] = []
        self.refused: list[str] = []
        self.advised: list[float | None] = []

    async def send(self, request: GenerationRequest) -> None:
        assert request.scope is not None
        try:
            await self.replica.complete(request, Deadline.after(self.clock, 10_000))
        except Overloaded as error:
            self.refused.append(request.scope)
            self.advised.append(error.retry_after)
        else:
            self.done.append(request.scope)

    async def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            await self.clock.advance(1)


@asynccontextmanager
async def flooded(requests: int, **config: int) -> AsyncIterator[tuple[World, asyncio.TaskGroup]]:
    world = World(**config)
    await world.replica.start()
    async with asyncio.TaskGroup() as group:
        flood = [group.create_task(world.send(ask("A", n=8))) for _ in range(requests)]
        await world.pass_time(3)
        yield world, group
        for task in flood:
            task.cancel()
    assert world.replica.load == {"slots": SLOTS, "active": 0, "waiting": 0}
    await world.replica.aclose()


async def test_another_account_is_answered_within_one_generation_more() -> None:
    """While account A floods the replica, each of five requests of B is answered within 21 s (two generations)."""
    async with flooded(14) as (world, group):
        assert world.engine.busy == SLOTS
        for number in range(5):
            asked = world.clock.monotonic()
            question = group.create_task(world.send(ask("B")))
            while not question.done():
                await world.pass_time(1)
                assert world.clock.monotonic() - asked <= 2 * GENERATION + 1
            if number:  # a slot is reserved for an account after its request
                assert world.clock.monotonic() - asked <= GENERATION + 1
        assert world.done.count("B") == 5
        assert world.refused == []
        await world.pass_time(350)
        assert world.done.count("A") >= 10


async def test_a_full_queue_refuses_the_account_that_filled_it() -> None:
    """If the queue is full, a request of another account is queued, and the flood's newest is refused with 503."""
    async with flooded(60, max_waiting=2) as (world, group):
        before = len(world.refused)
        assert world.refused == ["A"] * before
        question = group.create_task(world.send(ask("B")))
        await world.pass_time(2 * GENERATION)
        assert question.done()
        assert world.done.count("B") == 1
        assert world.refused == ["A"] * (before + 1)
        assert None not in world.advised


async def test_weight_reaches_the_replica_and_counts_there() -> None:
    """The weight of an account reaches the replica; while both wait, weight 4 gets three of the four slots."""
    body = request_body(ask("B"), stream=True, cache_salt="b", weight=4)
    heavy = GenerateRequest.model_validate(body).to_generation(request_id="req-2")
    assert (heavy.share.scope, heavy.share.weight) == ("b", 4)
    assert "weight" not in request_body(ask("B"), stream=True)
    world = World(max_waiting=1000)
    await world.replica.start()
    light = ask("A")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(world.send(r)) for r in (heavy, light) for _ in range(200)]
        await world.pass_time(300)
        served = {scope: world.done.count(scope) for scope in ("A", "b")}
        # No account gets all four slots while another one waits: three to one at most.
        assert served["b"] / served["A"] == pytest.approx(3, rel=0.15)
        for task in tasks:
            task.cancel()
    await world.replica.aclose()


class SlowEmbedder(FakeEmbedder):
    """An embedder that takes ten seconds for each request, by the manual clock."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        await self._clock.sleep(GENERATION)
        return await super().embed(texts)


async def test_a_flood_of_embeddings_lets_another_account_in() -> None:
    """An embedding request of B is served next after the running one, before eight waiting requests of A."""
    clock = ManualClock()
    replica = Replica(
        {"general": FakeEngine(FakePlan(), clock=clock)},
        ReplicaConfig(),
        clock=clock,
        replica_id="r1",
        embedder=SlowEmbedder(clock),
    )
    await replica.start()
    done: list[str] = []

    async def embed(scope: str) -> None:
        share = Share(scope=scope)
        await replica.embed(["tea"], Deadline.after(clock, 10_000), share=share)
        done.append(scope)

    async with asyncio.TaskGroup() as group:
        for _ in range(9):
            group.create_task(embed("A"))
        await clock.advance(1)
        group.create_task(embed("B"))
        for _ in range(100):
            await clock.advance(1)
    assert done == ["A", "B"] + ["A"] * 8
    await replica.aclose()
