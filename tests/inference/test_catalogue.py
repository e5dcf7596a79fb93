"""Our re-implementation of a public fault catalogue (FailoverBench v0.1), streamed and whole.

Each scenario is a fault of the first provider; the second one works. Times are shortened with the
timeouts that bound them, so these tests show behaviour only; `python -m benchmarks.catalogue` runs
the same scenarios at their published times, with the default timeouts.
"""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import (
    CallerError,
    ContextLengthExceeded,
    GenerationInterrupted,
    MongarsError,
)
from mongars.inference.config import InferenceConfig
from mongars.inference.events import LargerContext
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, WORDS, Echo, Fault, FaultyResponse, Reset, Silence, Status
from mongars.testing.inference import Stack, build, question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.generation import Completion, GenerationRequest
    from mongars.inference.provider import Route

CLOCK = SystemClock()
BUSY = Status(code=429, error="overloaded")
UNAVAILABLE = Status(code=503, error="overloaded")
FAILED = Status(code=500, error="inference_failed")


@dataclass(frozen=True)
class World:
    """The first provider with its faults, the second one, and the client of both."""

    primary: FakeReplica
    fallback: FakeOllama
    stack: Stack

    async def ask(
        self, asked: GenerationRequest | None = None, *, streamed: bool
    ) -> tuple[Completion, Route]:
        """The answer and its route, read as a stream or whole."""
        asked = asked or question()
        if not streamed:
            return await self.stack.integration.generate(asked)
        accumulated = AnswerAccumulator()
        async with self.stack.integration.open(asked) as answer:
            async for chunk in answer:
                accumulated.add(chunk)
            return accumulated.completion(answer.origin), answer.route

    @property
    def attempts(self) -> int:
        """The number of requests sent to both providers."""
        return len(self.primary.received) + len(self.fallback.received)


@asynccontextmanager
async def world(
    *faults: Fault, always: Fault | None = None, **settings: float
) -> AsyncIterator[World]:
    async with FakeReplica(*faults) as primary, FakeOllama() as fallback:
        primary.always = always or FaultyResponse()
        config = InferenceConfig(
            endpoints=(primary.url,),
            use_ray=True,
            ollama_host=fallback.base,
            ollama_model="fake",
            **{"timeout": 5.0, "scaling_backoff": (0.05, 0.1), **settings},
        )
        stack = build(config)
        async with stack.integration:
            yield World(primary, fallback, stack)


def check(found: tuple[Completion, Route], *, provider: str) -> None:
    completion, route = found
    assert completion.text == TEXT
    assert completion.finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == WORDS
    assert route.provider == provider


pytestmark = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])


@pytest.mark.slow
async def test_s01_retry_after_two_seconds(streamed: bool) -> None:
    patience = Status(code=429, error="overloaded", headers={"Retry-After": "2"})
    async with world(patience) as it:
        check(await it.ask(streamed=streamed), provider="ray_serve")
        first, second = it.primary.received
        assert second.at - first.at >= 2.0
        assert it.attempts == 2


async def test_s02_busy_without_end(streamed: bool) -> None:
    async with world(always=BUSY) as it:
        check(await it.ask(streamed=streamed), provider="ollama")
        assert len(it.primary.received) <= 4
        assert it.attempts <= 6


async def test_s03_one_server_error(streamed: bool) -> None:
    async with world(FAILED) as it:
        check(await it.ask(streamed=streamed), provider="ray_serve")
        assert len(it.primary.received) == 2


async def test_s04_unavailable_without_end(streamed: bool) -> None:
    async with world(always=UNAVAILABLE) as it:
        check(await it.ask(streamed=streamed), provider="ollama")
        assert it.attempts <= 6


async def test_s05_reset_before_any_answer(streamed: bool) -> None:
    async with world(Reset()) as it:
        check(await it.ask(streamed=streamed), provider="ray_serve")


async def test_s06_silence(streamed: bool) -> None:
    async with world(always=Silence(), timeout=0.5) as it:
        began = CLOCK.monotonic()
        check(await it.ask(streamed=streamed), provider="ollama")
        assert CLOCK.monotonic() - began < 5
        assert len(it.primary.received) == 1


async def test_s07_a_slow_first_token(streamed: bool) -> None:
    """Comments and the role do not count as a first token: after the timeout, the second provider answers."""
    slow = FaultyResponse(first_delay=20.0, keepalives=True)
    async with world(always=slow, timeout=0.5) as it:
        began = CLOCK.monotonic()
        check(await it.ask(streamed=streamed), provider="ollama")
        assert CLOCK.monotonic() - began < 5


@pytest.mark.parametrize("cut", ["close", "abort"])
async def test_s08_cut_after_forty_tokens(streamed: bool, cut: str) -> None:
    async with world(always=FaultyResponse(cut_after=40, cut=cut)) as it:
        completion, _ = await it.ask(streamed=streamed)
        assert completion.text == TEXT
        assert completion.usage is not None


async def test_s09_stalled_after_twenty_tokens(streamed: bool) -> None:
    async with world(always=FaultyResponse(stall_after=20), idle_timeout=0.3) as it:
        began = CLOCK.monotonic()
        completion, _ = await it.ask(streamed=streamed)
        assert completion.text == TEXT
        assert CLOCK.monotonic() - began < 5
        check(await it.ask(streamed=streamed), provider="ollama")


async def test_s10_a_malformed_chunk(streamed: bool) -> None:
    async with world(FaultyResponse(malformed_after=10)) as it:
        completion, _ = await it.ask(streamed=streamed)
        assert completion.text == TEXT


@pytest.mark.parametrize(
    "ending", [FaultyResponse(done=False), FaultyResponse(done=False, hold_open=True)]
)
async def test_s11_no_done(streamed: bool, ending: FaultyResponse) -> None:
    async with world(always=ending) as it:
        began = CLOCK.monotonic()
        check(await it.ask(streamed=streamed), provider="ray_serve")
        assert CLOCK.monotonic() - began < 8


TOO_LONG = Status(
    code=400,
    body={
        "content": "",
        "error": "context_length_exceeded",
        "detail": "too long",
        "prompt_tokens": 5000,
        "context_tokens": 4096,
    },
)


async def test_s12_too_long_a_prompt_goes_to_a_larger_model(streamed: bool) -> None:
    """Too long a prompt is sent once to the small model, then to the larger one with a sufficient context."""
    async with world(always=TOO_LONG) as it:
        found = await it.ask(streamed=streamed)
        check(found, provider="ollama")
        assert len(it.primary.received) == 1
        assert found[1].attempts == 2
        assert it.fallback.received[0].body["options"]["num_ctx"] == 8192
        assert not found[1].fallback, "nothing has failed"
        (event,) = it.stack.observer.of(LargerContext)
        assert (event.prompt_tokens, event.context_tokens) == (5000, 4096)
        assert "llm.ray.fallback_local" not in it.stack.observer.names


async def test_s12_missing_numbers_are_bounded(streamed: bool) -> None:
    """Without token counts in the refusal, a model whose context is smaller than the prompt's bytes is not tried."""
    mute = Status(code=400, body={"error": {"code": "context_length_exceeded", "message": "Long."}})
    async with world(always=mute) as it:
        check(await it.ask(streamed=streamed), provider="ollama")
    async with world(always=mute) as it:
        it.fallback.context_tokens = question().prompt_bytes
        with pytest.raises(ContextLengthExceeded, match="Long"):
            await it.ask(streamed=streamed)


@pytest.mark.parametrize("window", [5000, None], ids=["as small", "unknown"])
async def test_s12_no_window_holds_the_prompt(streamed: bool, window: int | None) -> None:
    """If no model's context fits the prompt, the error has both numbers, and no other provider is tried."""
    async with world(always=TOO_LONG) as it:
        it.fallback.context_tokens = window or 0
        with pytest.raises(ContextLengthExceeded) as failure:
            await it.ask(streamed=streamed)
        assert (failure.value.prompt_tokens, failure.value.context_tokens) == (5000, 4096)
        assert (len(it.primary.received), len(it.fallback.received)) == (1, 0)


async def test_s12_the_larger_model_fails(streamed: bool) -> None:
    """If the larger model fails, the client gets the error that the prompt is too long."""
    async with world(always=TOO_LONG) as it:
        it.fallback.always = FAILED
        with pytest.raises(ContextLengthExceeded):
            await it.ask(streamed=streamed)
        assert it.attempts == 2


async def test_s12_a_cut_answer_of_the_larger_model_goes_on_there(streamed: bool) -> None:
    """A cut answer of the larger model is continued by that model, not by the provider that refused the prompt."""
    async with world(always=TOO_LONG) as it:
        it.fallback.faults.append(FaultyResponse(cut_after=40))
        check(await it.ask(streamed=streamed), provider="ollama")
        assert (len(it.primary.received), len(it.fallback.received)) == (1, 2)
        assert it.fallback.received[1].body["options"]["num_ctx"] == 8192


async def test_s12_ollama_makes_room_for_what_its_usual_window_does_not_hold(
    streamed: bool,
) -> None:
    """With Ray down, Ollama's refusal of a long prompt is followed by a second attempt with a larger context."""
    asked = question("word " * 40)
    async with world(always=Reset()) as it:
        it.fallback.always = Echo(context_tokens=16)
        completion, route = await it.ask(asked, streamed=streamed)
        assert completion.text.endswith("word word")
        assert (route.provider, route.fallback) == ("ollama", True)
        assert [request.body["options"].get("num_ctx") for request in it.fallback.received] == [
            None,
            2048,
        ]
        it.fallback.context_tokens = 32  # the known value is used
        it.fallback.always = Echo(context_tokens=3000)
        await it.ask(asked, streamed=streamed)
        assert len(it.fallback.received) == 3


async def test_s12_a_client_that_shortens_gets_the_error(streamed: bool) -> None:
    """A request that the client can shorten gets the error at once and is not sent to a larger model."""
    async with world(always=TOO_LONG) as it:
        asked = dataclasses.replace(question(), shortens=True)
        with pytest.raises(ContextLengthExceeded):
            await it.ask(asked, streamed=streamed)
        assert it.attempts == 1


async def test_s13_refused_content(streamed: bool) -> None:
    refusal = Status(
        code=400, body={"error": {"code": "content_policy_violation", "message": "Not this."}}
    )
    async with world(always=refusal) as it:
        with pytest.raises(CallerError, match="Not this"):
            await it.ask(streamed=streamed)
        assert it.attempts == 1


async def test_s14_cut_and_a_fallback_that_refuses_to_continue(streamed: bool) -> None:
    """If the second provider refuses to continue a cut answer, its refusal is not shown and the answer is completed."""
    refusal = Status(code=400, error="invalid_request", detail="prefill is not supported")
    async with world(FaultyResponse(cut_after=40), always=refusal) as it:
        completion, _ = await it.ask(streamed=streamed)
        assert completion.text == TEXT
        assert len(it.fallback.received) == 1


async def test_s14_no_provider_is_left(streamed: bool) -> None:
    """If both providers refuse to continue a cut answer, the error is the interruption, not the refusal."""
    refusal = Status(code=400, error="invalid_request", detail="prefill is not supported")
    async with world(FaultyResponse(cut_after=40), always=refusal) as it:
        it.fallback.always = refusal
        with pytest.raises(GenerationInterrupted, match=r"^(?!.*prefill)"):
            await it.ask(streamed=streamed)


async def test_s15_an_outage_and_its_end(streamed: bool) -> None:
    """In an outage the second provider answers all requests; the first is used again within 15 s of its return."""
    async with world(always=UNAVAILABLE) as it:
        for _ in range(20):
            check(await it.ask(streamed=streamed), provider="ollama")
        assert len(it.primary.received) <= 20
        it.primary.always = FaultyResponse()
        until = CLOCK.monotonic() + 15
        while (await it.ask(streamed=streamed))[1].provider != "ray_serve":
            assert CLOCK.monotonic() < until
            await CLOCK.sleep(0.2)


async def test_s16_the_completing_provider_is_named(streamed: bool) -> None:
    async with world(always=UNAVAILABLE) as it:
        completion, route = await it.ask(streamed=streamed)
        assert completion.origin.model.startswith("fake")
        assert completion.origin.engine == "ollama"
        assert completion.usage is not None
        assert it.attempts <= 6
        assert route.fallback


@pytest.mark.parametrize(
    "fault",
    [
        BUSY,
        FAILED,
        UNAVAILABLE,
        Reset(),
        FaultyResponse(cut_after=40),
        FaultyResponse(malformed_after=10),
    ],
    ids=["429", "500", "503", "reset", "cut", "malformed"],
)
async def test_afterwards_everything_is_as_before(streamed: bool, fault: Fault) -> None:
    """After each fault the next request is answered, and no request counts as in progress."""
    async with world(fault) as it:
        try:
            await it.ask(streamed=streamed)
        except MongarsError as error:
            pytest.fail(f"not answered: {error}")
        completion, _ = await it.ask(streamed=streamed)
        assert completion.text == TEXT
        ray = (await it.stack.integration.status())[0]
        assert [endpoint.in_flight for endpoint in ray.endpoints] == [0]
