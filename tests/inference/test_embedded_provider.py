from __future__ import annotations

import asyncio
import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import (
    AllProvidersFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    GenerationInterrupted,
    InferenceFailed,
    NotReady,
    Overloaded,
    WorldError,
)
from mongars.core.generation import Sampling
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.config import InferenceConfig
from mongars.inference.embedded import Embedded
from mongars.inference.provider import Attempts
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import Status
from mongars.testing.inference import build, question
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from mongars.core.generation import GenerationRequest

CLOCK = SystemClock()


class SlowStart(FakeEngine):
    """A fake engine whose start takes 50 ms, and that counts its starts."""

    starts = 0

    async def start(self) -> None:
        self.starts += 1
        await CLOCK.sleep(0.05)
        await super().start()


@asynccontextmanager
async def running(
    engine: FakeEngine, *, waiting: int = 16, idle_seconds: float = 300, **settings: object
) -> AsyncIterator[Embedded]:
    config = InferenceConfig(endpoints=(), use_ray=False, **settings)
    provider = Embedded(engine, config, waiting=waiting, idle_seconds=idle_seconds)
    async with asyncio.TaskGroup() as group:
        background = group.create_task(provider.run())
        await CLOCK.sleep(0)
        try:
            yield provider
        finally:
            background.cancel()
            await provider.aclose()


async def ask(provider: Embedded, text: str = "tell me", *, seconds: float = 5.0) -> str:
    deadline = Deadline.after(CLOCK, seconds)
    async with provider.open(question(text), deadline, Attempts(CLOCK)) as stream:
        return "".join([chunk.text async for chunk in stream.chunks])


async def outcome_of(asking: Coroutine[None, None, str]) -> str | WorldError:
    try:
        return await asking
    except WorldError as error:
        return error


async def test_the_engine_is_started_once_for_all_requests() -> None:
    """The engine is started by the first request, and ten requests at once wait for the same start."""
    engine = SlowStart(FakePlan(), clock=CLOCK)
    async with running(engine) as provider:
        assert engine.starts == 0
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(provider)) for _ in range(10)]
        assert {task.result() for task in asked} == {"[1] you said: tell me"}
        assert engine.starts == 1


async def test_a_short_deadline_does_not_cancel_the_start() -> None:
    """A request whose deadline is shorter than the start fails; the start continues for the next request."""
    engine = SlowStart(FakePlan(), clock=CLOCK)
    async with running(engine) as provider:
        with pytest.raises(DeadlineExceeded):
            await ask(provider, seconds=0.01)
        assert await ask(provider) == "[1] you said: tell me"
        assert engine.starts == 1


async def test_a_failed_start_is_reported_and_tried_again() -> None:
    """If the engine fails to start, the error has the reason, and the next request starts it again."""
    engine = FakeEngine(FakePlan(start_error="no weights"), clock=CLOCK)
    async with running(engine) as provider:
        for _ in range(2):
            with pytest.raises(InferenceFailed, match="no weights"):
                await ask(provider)
        assert (await provider.status()).state == "down"


async def test_a_shutdown_during_the_start_fails_waiting_requests() -> None:
    """Requests that wait for the engine's start fail with `NotReady` when the process shuts down."""
    engine = SlowStart(FakePlan(), clock=CLOCK)
    provider = Embedded(engine, InferenceConfig(endpoints=(), use_ray=False))
    async with asyncio.TaskGroup() as group:
        background = group.create_task(provider.run())
        asking = group.create_task(outcome_of(ask(provider)))
        await CLOCK.sleep(0.01)
        background.cancel()
    assert isinstance(asking.result(), NotReady)


async def test_open_choices_are_filled_with_the_configured_sampling() -> None:
    """Sampling parameters that the request leaves out get the configured defaults."""
    engine = FakeEngine(FakePlan(), clock=CLOCK)
    async with running(engine, sampling=Sampling(max_tokens=2)) as provider:
        assert await ask(provider) == "[1] you"


async def test_a_full_queue_sheds_at_once_with_a_wait_to_advise() -> None:
    """With one slot and room for one waiting request, the third is refused at once with a `retry_after`."""
    engine = FakeEngine(FakePlan(slots=1, token_delay=0.05), clock=CLOCK)
    async with running(engine, waiting=1) as provider, asyncio.TaskGroup() as group:
        first = group.create_task(ask(provider))
        await CLOCK.sleep(0.01)
        second = group.create_task(ask(provider))
        await CLOCK.sleep(0.01)
        with pytest.raises(Overloaded) as refusal:
            await ask(provider)
        assert not first.done()
        assert refusal.value.retry_after is not None
        assert await first == await second


async def test_requests_that_cannot_be_served_in_time_are_refused_by_the_embedded_engine() -> None:
    """A request whose deadline is shorter than the expected wait is refused at once."""
    engine = FakeEngine(FakePlan(slots=1, first_token_delay=0.5), clock=CLOCK)
    async with running(engine) as provider, asyncio.TaskGroup() as group:
        await ask(provider)
        held = group.create_task(ask(provider))
        await CLOCK.sleep(0.01)
        start = CLOCK.monotonic()
        with pytest.raises(Overloaded):
            await ask(provider, seconds=0.4)
        assert CLOCK.monotonic() - start < 0.3
        held.cancel()


async def test_client_errors_are_returned_to_the_client() -> None:
    """Too long a prompt raises `ContextLengthExceeded`."""
    engine = FakeEngine(FakePlan(context_tokens=8), clock=CLOCK)
    async with running(engine) as provider:
        with pytest.raises(ContextLengthExceeded):
            await ask(provider, "one two three four five six seven eight")


@pytest.mark.parametrize(("tokens", "error"), [(0, InferenceFailed), (2, GenerationInterrupted)])
async def test_cuts_are_reported(tokens: int, error: type[Exception]) -> None:
    """An engine that breaks off raises `InferenceFailed` before the first token, `GenerationInterrupted` after it."""
    engine = FakeEngine(FakePlan(cut_after_tokens=tokens), clock=CLOCK)
    async with running(engine) as provider:
        with pytest.raises(error):
            await ask(provider)


async def test_an_idle_engine_is_a_cut() -> None:
    """An engine that generates nothing for longer than the idle timeout is cut with an error that says so."""
    engine = FakeEngine(FakePlan(token_delay=0.3), clock=CLOCK)
    async with running(engine, idle_timeout=0.05) as provider:
        with pytest.raises(GenerationInterrupted, match="idle"):
            await ask(provider)


async def test_choices_of_one_user_do_not_keep_another_user_waiting() -> None:
    """While one user's requests for several choices fill the slots, the next free slot goes to another user."""
    engine = FakeEngine(FakePlan(slots=2, first_token_delay=0.1), clock=CLOCK)
    flood = dataclasses.replace(question("a"), sampling=Sampling(n=4), scope="A")
    async with running(engine) as provider, asyncio.TaskGroup() as group:

        async def send(request: GenerationRequest) -> int:
            deadline = Deadline.after(CLOCK, 30)
            async with provider.open(request, deadline, Attempts(CLOCK)) as stream:
                return len({chunk.index async for chunk in stream.chunks})

        flooding = [group.create_task(send(flood)) for _ in range(6)]
        await eventually(lambda: engine.busy == 2)
        assert await send(dataclasses.replace(question("b"), scope="B")) == 1
        assert not any(task.done() for task in flooding)
        assert await flooding[0] == 4
        for task in flooding:
            task.cancel()
    assert (provider.slot_table.load.active, provider.slot_table.load.waiting) == (0, 0)


@pytest.mark.parametrize("plan", [{"first_token_delay": 30.0}, {"token_delay": 0.05}], ids=str)
async def test_leaving_frees_the_slot_at_once(plan: dict[str, float]) -> None:
    """A client that disconnects, before or after the first token, frees the engine's slot."""
    engine = FakeEngine(FakePlan(slots=1, **plan), clock=CLOCK)
    async with running(engine) as provider, asyncio.TaskGroup() as group:
        asking = group.create_task(ask(provider))
        await CLOCK.sleep(0.1)
        assert engine.busy == 1
        asking.cancel()
        await CLOCK.sleep(0.01)
        assert engine.busy == 0


async def test_an_unused_engine_is_stopped() -> None:
    """An idle engine is stopped, but not during an answer, and the next request starts it again."""
    engine = SlowStart(FakePlan(token_delay=0.1), clock=CLOCK)
    async with running(engine, idle_seconds=0.1) as provider:
        assert await ask(provider) == "[1] you said: tell me"
        await eventually(lambda: engine.status.state == "stopped")
        assert await ask(provider) == "[1] you said: tell me"
        assert engine.starts == 2


class Broken(FakeEngine):
    """An engine whose first start raises an unexpected exception."""

    bugs = 1

    async def start(self) -> None:
        if self.bugs:
            self.bugs -= 1
            message = "a bug"
            raise RuntimeError(message)
        await super().start()


async def test_a_bug_in_a_provider_does_not_end_the_process() -> None:
    """After an unexpected exception in a provider, it is reported and the provider's background work restarted."""
    engine = Broken(FakePlan(), clock=CLOCK)
    built = build(InferenceConfig(endpoints=(), use_ray=False), engine=engine)
    async with asyncio.timeout(10), built.integration as llm:
        with pytest.raises(AllProvidersFailed):
            await llm.generate(question())
        await eventually(lambda: "llm.provider.crashed" in built.observer.names, seconds=5)
        await CLOCK.sleep(1.2)
        completion, _ = await llm.generate(question("tell me"))
    assert completion.text == "[1] you said: tell me"


async def test_the_embedded_engine_takes_what_is_too_long_for_ray() -> None:
    """A prompt too long for Ray is answered by the embedded engine if its context exceeds Ray's token count."""
    told = {"error": "context_length_exceeded", "prompt_tokens": 300, "context_tokens": 256}
    async with FakeReplica() as replica:
        replica.always = Status(code=400, body=told)
        for window in (300, 301):
            config = InferenceConfig(endpoints=(replica.url,), use_ray=True)
            engine = FakeEngine(FakePlan(), clock=CLOCK)
            built = build(config, engine=engine, context_tokens=window)
            async with built.integration:
                if window == 300:
                    with pytest.raises(ContextLengthExceeded):
                        await built.integration.generate(question())
                else:
                    _, route = await built.integration.generate(question())
                    assert (route.provider, route.attempts) == ("embedded", 2)
