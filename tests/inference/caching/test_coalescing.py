"""Stored and shared answers over real sockets, checked by the requests that the replica received."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import AllProvidersFailed, GenerationInterrupted, InvalidRequest
from mongars.core.generation import Chunk, Sampling
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.config import InferenceConfig
from mongars.inference.events import Answered, Unanswered
from mongars.inference.integration import LLMIntegration
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, FaultyResponse, Reset, Status
from mongars.testing.inference import Stack, build, question
from mongars.testing.manual_clock import ManualClock
from mongars.testing.recording import RecordingObserver
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.generation import GenerationRequest

AT_ONCE = 0.2
CLOCK = SystemClock()
GREEDY = Sampling(temperature=0)
MIB = 1024 * 1024


def greedy(text: str = "Say the words.", **changes: object) -> GenerationRequest:
    """A request in Alice's scope with exactly one possible answer."""
    return dataclasses.replace(question(text), **{"scope": "alice", "sampling": GREEDY, **changes})


@asynccontextmanager
async def stack(
    *replicas: FakeReplica,
    engine: FakeEngine | None = None,
    clock: Clock | None = None,
    **settings: object,
) -> AsyncIterator[Stack]:
    changes = {"answer_cache_bytes": MIB, "session_affinity": False, "timeout": 30.0, **settings}
    urls = tuple(replica.url for replica in replicas)
    built = build(
        InferenceConfig(endpoints=urls, use_ray=True, **changes), engine=engine, clock=clock
    )
    async with built.integration:
        yield built


async def use_of(found: Stack, request: GenerationRequest | None = None) -> str | None:
    """The `cache` field of the route of a complete and correct answer."""
    completion, route = await found.integration.generate(request or greedy())
    assert completion.text == TEXT
    return route.cache


async def chunks_of(found: Stack, request: GenerationRequest) -> list[Chunk]:
    async with found.integration.open(request) as answer:
        return [chunk async for chunk in answer]


async def test_an_identical_request_is_answered_from_the_store() -> None:
    """A repeated request gets the same chunks and origin from the cache, and the replica receives no request."""
    async with FakeReplica() as replica, stack(replica) as found:
        first = await chunks_of(found, greedy())
        async with found.integration.open(greedy()) as answer:
            assert [chunk async for chunk in answer] == first
            assert (answer.route.cache, answer.route.attempts) == ("hit", 0)
            assert answer.origin == replica.origin
        assert all(chunk.raw for chunk in first)
        assert len(replica.received) == 1
        events = found.observer.of(Answered)
        assert [(e.cache, e.attempts, e.outcome) for e in events] == [
            ("miss", 1, "success"),
            ("hit", 0, "success"),
        ]
        assert events[0].completion_tokens == events[1].completion_tokens


async def test_streamed_and_whole_answers_are_the_same_one() -> None:
    async with FakeReplica() as replica, stack(replica) as found:
        whole, _ = await found.integration.generate(greedy())
        accumulated = AnswerAccumulator()
        for chunk in await chunks_of(found, greedy()):
            accumulated.add(chunk)
        assert accumulated.completion(replica.origin) == whole
        assert len(replica.received) == 1


@pytest.mark.parametrize(
    ("changes", "use"),
    [
        ({"scope": "bob"}, "miss"),
        ({"scope": None}, None),
        ({"sampling": Sampling(temperature=0.7)}, None),
        ({"sampling": Sampling(temperature=0, max_tokens=9)}, "miss"),
        ({"task_type": "coding"}, "miss"),
    ],
    ids=["other user", "nobody", "drawn at random", "other length", "other task"],
)
async def test_a_different_request_is_sent(changes: dict[str, object], use: str | None) -> None:
    async with FakeReplica() as replica, stack(replica) as found:
        assert await use_of(found) == "miss"
        assert await use_of(found, greedy(**changes)) == use
        assert len(replica.received) == 2


async def test_off_by_default() -> None:
    async with FakeReplica() as replica, stack(replica, answer_cache_bytes=0) as found:
        assert [await use_of(found) for _ in range(2)] == [None, None]
        assert len(replica.received) == 2


async def test_expired_answers_are_generated_again() -> None:
    clock = ManualClock()
    async with FakeReplica() as replica, stack(replica, clock=clock) as found:
        assert await use_of(found) == "miss"
        await clock.advance(299)
        assert await use_of(found) == "hit"
        await clock.advance(1)
        assert await use_of(found) == "miss"
        assert len(replica.received) == 2


async def test_a_new_adapter_answers_for_itself() -> None:
    """A stored answer is not used once another answer shows a new adapter; the new adapter's answers are stored."""
    clock = ManualClock()
    async with FakeReplica() as replica, stack(replica, clock=clock) as found:
        assert await use_of(found) == "miss"
        replica.origin = dataclasses.replace(replica.origin, adapter_version="v8")
        assert await use_of(found, question("Something else.")) is None
        assert await use_of(found) == "miss"
        await clock.advance(60)  # seconds since the old adapter answered
        async with found.integration.open(greedy()) as answer:
            assert answer.route.cache == "hit"
            assert answer.origin.adapter_version == "v8"


async def test_nothing_is_reused_while_two_adapters_answer() -> None:
    """While replicas with two adapters answer, requests are sent to replicas instead of answered from the cache."""
    async with FakeReplica() as old, FakeReplica() as new, stack(old, new) as found:
        new.origin = dataclasses.replace(new.origin, adapter_digest="e" * 64)
        while not (old.received and new.received):
            await use_of(found, question("Who is there?"))
        before = len(old.received) + len(new.received)
        assert [await use_of(found) for _ in range(3)] == ["miss"] * 3
        assert len(old.received) + len(new.received) == before + 3


@pytest.mark.parametrize(
    "fault",
    [
        FaultyResponse(cut_after=10),
        FaultyResponse(error_after=10),
        Status(code=400, error="invalid_request"),
    ],
    ids=["cut", "reported", "refused"],
)
async def test_failures_are_not_kept(fault: FaultyResponse | Status) -> None:
    async with FakeReplica() as replica, stack(replica, timeout=2.0) as found:
        replica.always = fault
        with pytest.raises((GenerationInterrupted, InvalidRequest)):
            await found.integration.generate(greedy())
        replica.always = FaultyResponse()
        before = len(replica.received)
        assert await use_of(found) == "miss"
        assert len(replica.received) == before + 1


async def test_an_answer_that_moved_is_not_kept() -> None:
    """An answer that two replicas generated, the first of which failed, is not stored."""
    async with FakeReplica(FaultyResponse(cut_after=10)) as replica, stack(replica) as found:
        assert [await use_of(found) for _ in range(3)] == ["miss", "miss", "hit"]
        assert len(replica.received) == 3


async def test_the_provider_that_continues_a_shared_answer_is_named() -> None:
    """After a failover, both requests that share the answer end with the origin of the replica that continued it."""
    async with FakeReplica() as one, FakeReplica() as two, stack(one, two) as found:
        two.faults = one.faults
        one.faults.append(FaultyResponse(token_delay=0.01, cut_after=20))
        two.origin = dataclasses.replace(two.origin, adapter_version="v8")

        async def versions() -> tuple[str, str]:
            async with found.integration.open(greedy()) as answer:
                before = answer.origin.adapter_version
                assert "".join([chunk.text async for chunk in answer]) == TEXT
                return before, answer.origin.adapter_version

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(versions()) for _ in range(2)]
        first, last = ("v7", "v8") if one.received[0].at < two.received[0].at else ("v8", "v7")
        assert [task.result() for task in asking] == [(first, last)] * 2


async def test_a_local_answer_is_not_kept_for_ray() -> None:
    """A local answer is not reused once Ray is available again, even with the same model and adapter."""
    engine = FakeEngine(FakePlan(), clock=CLOCK)
    async with FakeReplica() as replica, stack(replica, engine=engine) as found:
        replica.origin = engine.origin
        assert await use_of(found, question("Something else.")) is None
        replica.always = Reset()
        completion, route = await found.integration.generate(greedy())
        replica.always = FaultyResponse()
        assert (route.provider, route.cache, route.fallback) == ("embedded", "miss", True)
        assert completion.text != TEXT
        assert await use_of(found) == "miss"


async def test_ray_s_answers_outlive_ray() -> None:
    """While Ray is down, its stored answers are still used instead of a local provider."""
    engine = FakeEngine(FakePlan(), clock=CLOCK)
    async with FakeReplica() as replica, stack(replica, engine=engine) as found:
        assert await use_of(found) == "miss"
        await replica.stop()
        _, route = await found.integration.generate(greedy("Something else."))
        assert (route.provider, route.cache) == ("embedded", "miss")
        assert await use_of(found) == "hit"


async def test_twenty_identical_requests_are_one_generation() -> None:
    async with FakeReplica() as replica, stack(replica) as found:
        replica.always = FaultyResponse(first_delay=0.1, token_delay=0.002)
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(use_of(found)) for _ in range(20)]
        assert sorted(str(task.result()) for task in asking) == ["miss"] + ["shared"] * 19
        assert len(replica.received) == 1
        attempts = [event.attempts for event in found.observer.of(Answered)]
        assert sorted(attempts) == [0] * 19 + [1]


async def test_different_users_do_not_share() -> None:
    async with FakeReplica() as replica, stack(replica) as found:
        replica.always = FaultyResponse(first_delay=0.1)
        async with asyncio.TaskGroup() as group:
            for scope in ("alice", "bob"):
                group.create_task(use_of(found, greedy(scope=scope)))
        assert len(replica.received) == 2


@pytest.mark.parametrize(
    "fault", [FaultyResponse(first_delay=1.0), FaultyResponse(token_delay=0.02)]
)
async def test_others_continue_when_the_first_client_leaves(fault: FaultyResponse) -> None:
    """If the first client disconnects, the others get the complete answer of the same generation."""
    async with FakeReplica() as replica, stack(replica) as found:
        replica.always = fault
        async with asyncio.TaskGroup() as group:
            first = group.create_task(use_of(found))
            await eventually(lambda: bool(replica.received))
            others = [group.create_task(use_of(found)) for _ in range(5)]
            await CLOCK.sleep(0.1)
            first.cancel()
        assert [task.result() for task in others] == ["shared"] * 5
        assert len(replica.received) == 1
        assert replica.received[0].left_at is None


@pytest.mark.parametrize("fault", [FaultyResponse(first_delay=60), FaultyResponse(stall_after=5)])
async def test_the_call_ends_when_the_last_client_leaves(fault: FaultyResponse) -> None:
    """When the last client disconnects, the replica's connection is closed, and a later request starts anew."""
    async with FakeReplica(fault) as replica, stack(replica) as found:
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(use_of(found)) for _ in range(5)]
            await eventually(lambda: bool(replica.received))
            await CLOCK.sleep(0.05)
            for task in asking[:-1]:
                task.cancel()
            await CLOCK.sleep(0.05)
            assert not replica.received[0].peer_left.is_set()
            left = CLOCK.monotonic()
            asking[-1].cancel()
        async with asyncio.timeout(AT_ONCE):
            await replica.received[0].peer_left.wait()
        assert replica.received[0].left_at is not None
        assert replica.received[0].left_at - left < AT_ONCE
        assert await use_of(found) == "miss"
        (ray,) = await found.integration.status()
        assert [endpoint.in_flight for endpoint in ray.endpoints] == [0]


async def test_late_clients_get_the_answer_from_its_start() -> None:
    """A client that joins late gets the whole answer, and a slow client does not delay the others."""
    async with FakeReplica() as replica, stack(replica) as found, AsyncExitStack() as readers:
        replica.always = FaultyResponse(token_delay=0.02)
        slow = await readers.enter_async_context(found.integration.open(greedy()))
        seen = [(await anext(slow.chunks)).text for _ in range(10)]
        assert await use_of(found) == "shared"
        assert "".join([*seen, *[chunk.text async for chunk in slow]]) == TEXT
        assert len(replica.received) == 1


async def test_a_failure_is_everybody_s() -> None:
    async with FakeReplica() as replica, stack(replica, max_scale_cycles=1) as found:
        replica.always = FaultyResponse(first_delay=0.2, cut_after=0)
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(failure_of(found)) for _ in range(5)]
        assert {type(task.result()) for task in asking} == {AllProvidersFailed}
        assert len(replica.received) == 1
        assert len(found.observer.of(Unanswered)) == 5


async def failure_of(found: Stack, *, seconds: float = 60.0) -> Exception | None:
    try:
        async with found.integration.open(greedy(), deadline=Deadline.after(CLOCK, seconds)) as a:
            async for _ in a:
                pass
    except (AllProvidersFailed, GenerationInterrupted) as error:
        return error
    return None


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (FaultyResponse(first_delay=60), AllProvidersFailed),
        (FaultyResponse(stall_after=10), GenerationInterrupted),
    ],
    ids=["before the first token", "in the middle"],
)
async def test_requests_with_more_time_start_a_second_generation(
    first: FaultyResponse, kind: type[Exception]
) -> None:
    """The request with the short deadline fails alone; the others share one further generation."""
    async with FakeReplica(first) as replica, stack(replica) as found:
        async with asyncio.TaskGroup() as group:
            hasty = group.create_task(failure_of(found, seconds=1.0))
            await eventually(lambda: bool(replica.received))
            patient = [group.create_task(use_of(found)) for _ in range(3)]
        assert isinstance(hasty.result(), kind)
        assert {task.result() for task in patient} <= {"miss", "shared"}
        assert len(replica.received) == 2
    ends = [*found.observer.of(Answered), *found.observer.of(Unanswered)]
    assert len({event.request_id for event in ends}) == len(ends) == 4


async def test_a_request_with_as_little_time_starts_no_second_generation() -> None:
    """Requests with the same deadline share one generation, and no second one starts when it times out."""
    async with FakeReplica() as replica, stack(replica) as found:
        replica.always = FaultyResponse(first_delay=60)
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(failure_of(found, seconds=0.6)) for _ in range(5)]
        assert {type(task.result()) for task in asking} == {AllProvidersFailed}
        assert len(replica.received) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (FaultyResponse(first_delay=2.5), AllProvidersFailed),
        (FaultyResponse(token_delay=0.05), GenerationInterrupted),
    ],
    ids=["before the first token", "in the middle"],
)
async def test_a_request_with_less_time_fails_alone(
    fault: FaultyResponse, kind: type[Exception]
) -> None:
    async with FakeReplica(fault) as replica, stack(replica) as found:
        async with asyncio.TaskGroup() as group:
            patient = group.create_task(use_of(found))
            await eventually(lambda: bool(replica.received))
            hasty = group.create_task(failure_of(found, seconds=1.0))
        assert isinstance(hasty.result(), kind)
        assert patient.result() == "miss"
        assert len(replica.received) == 1


async def test_what_is_too_large_to_keep_is_still_shared() -> None:
    async with FakeReplica() as replica, stack(replica, answer_cache_bytes=2000) as found:
        replica.always = FaultyResponse(first_delay=0.1)
        for expected in (1, 2):
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(use_of(found))
            assert len(replica.received) == expected


class Faulty:
    """A provider whose `open` raises an unexpected exception."""

    name = "embedded"
    local = True

    @asynccontextmanager
    async def open(self, *_: object) -> AsyncIterator[None]:
        detail = "a bug"
        raise ZeroDivisionError(detail)
        yield

    async def run(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""


async def test_a_bug_is_raised_to_every_waiting_request() -> None:
    config = InferenceConfig(endpoints=(), use_ray=False, answer_cache_bytes=MIB)
    llm = LLMIntegration(config, (Faulty(),), clock=CLOCK, observer=RecordingObserver())

    async def ask() -> bool:
        with pytest.raises(ZeroDivisionError):
            await llm.generate(greedy())
        return True

    async with llm, asyncio.timeout(5), asyncio.TaskGroup() as group:
        asking = [group.create_task(ask()) for _ in range(3)]
    assert all(task.result() for task in asking)
