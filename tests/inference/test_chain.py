from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.core.deadline import Deadline
from mongars.core.errors import (
    AllProvidersFailed,
    CallerError,
    DeadlineExceeded,
    EndpointUnreachable,
    InvalidRequest,
    NotReady,
    ParameterUnsupported,
)
from mongars.core.generation import Chunk, Origin
from mongars.inference.chain import ProviderChain
from mongars.inference.events import Answered, Cancelled, FellBack, LocalFailed, Unanswered
from mongars.inference.provider import Attempts, ProviderName, ProviderStatus, ProviderStream
from mongars.inference.streams.reader import WholeAnswer
from mongars.testing.inference import question
from mongars.testing.manual_clock import ManualClock
from mongars.testing.recording import RecordingObserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.errors import MongarsError
    from mongars.core.generation import GenerationRequest


class Scripted:
    """A provider that answers, or raises `error`, after `takes` seconds."""

    def __init__(
        self, name: ProviderName, clock: ManualClock, *, error: MongarsError | None = None
    ) -> None:
        self.name: ProviderName = name
        self.local = name != "ray_serve"
        self.takes = 0.0
        self.requests = 0
        self.open_answers = 0
        self._clock = clock
        self.error = error

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AsyncIterator[ProviderStream]:
        self.requests += 1
        attempts.add()
        self.open_answers += 1
        try:
            if self.takes:
                await self._clock.sleep(self.takes)
            if self.error is not None:
                raise self.error
            yield ProviderStream(
                origin=Origin(model="m", engine="e"),
                endpoint="here",
                chunks=WholeAnswer((Chunk(text="Hello"), Chunk(finish_reason="stop"))),
            )
        finally:
            self.open_answers -= 1

    async def run(self) -> None:
        """Do nothing."""

    async def status(self) -> ProviderStatus:
        return ProviderStatus(name=self.name, state="up")

    async def aclose(self) -> None:
        """Do nothing."""


class Chain:
    def __init__(self, ray: MongarsError | None, ollama: MongarsError | None) -> None:
        self.clock = ManualClock()
        self.observer = RecordingObserver()
        self.ray = Scripted("ray_serve", self.clock, error=ray)
        self.ollama = Scripted("ollama", self.clock, error=ollama)
        self.embedded = Scripted("embedded", self.clock)
        providers = (self.ray, self.ollama, self.embedded)
        self.chain = ProviderChain(providers, observer=self.observer)

    async def ask(self) -> str:
        async with self.chain.open(question(), Deadline.after(self.clock, 10)) as answer:
            text = "".join([chunk.text async for chunk in answer])
            return f"{answer.route.provider} {answer.route.attempts}: {text}"


async def test_the_first_that_can_answer_answers() -> None:
    """If the first provider answers, the others get no request."""
    chain = Chain(None, None)
    assert await chain.ask() == "ray_serve 1: Hello"
    assert (chain.ollama.requests, chain.embedded.requests) == (0, 0)


async def test_attempts_add_up_over_the_providers() -> None:
    """The route's number of attempts includes those at all providers."""
    chain = Chain(EndpointUnreachable("unreachable"), NotReady("no model"))
    assert await chain.ask() == "embedded 3: Hello"
    assert [event.cause for event in chain.observer.of(FellBack)] == ["endpoint_unreachable"]
    (local,) = chain.observer.of(LocalFailed)
    assert (local.log.name, local.cause) == ("llm.ollama.error", "not_ready")


async def test_a_client_error_ends_the_chain() -> None:
    """A client error from one provider is raised without trying the next one."""
    chain = Chain(InvalidRequest("no"), None)
    with pytest.raises(CallerError):
        await chain.ask()
    assert chain.ollama.requests == 0


async def test_a_parameter_one_engine_lacks_is_left_to_the_next() -> None:
    """A parameter that a provider does not support is left to the next one, which is no fallback.

    If none supports it, the error is raised.
    """
    lacking = ParameterUnsupported.by(engine="ollama", param="logit_bias")
    chain = Chain(lacking, lacking)
    assert await chain.ask() == "embedded 3: Hello"
    assert not chain.observer.of(FellBack)
    nowhere = Chain(lacking, lacking)
    nowhere.embedded.error = lacking  # no provider supports it
    with pytest.raises(ParameterUnsupported, match="logit_bias"):
        await nowhere.ask()


async def test_no_provider_is_tried_after_the_deadline() -> None:
    """After the deadline no further provider is tried, and the error has the causes so far."""
    chain = Chain(DeadlineExceeded("slow"), None)
    chain.ray.takes = 11.0
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(failure_of(chain))
        await chain.clock.advance(11.0)
    assert [name for name, _ in asking.result().causes] == ["ray_serve"]
    assert chain.ollama.requests == 0


async def failure_of(chain: Chain) -> AllProvidersFailed:
    with pytest.raises(AllProvidersFailed) as failure:
        await chain.ask()
    return failure.value


async def test_a_request_whose_deadline_passed_at_ray_is_no_fallback() -> None:
    """If the deadline has passed when Ray fails, nothing is tried instead, and no fallback is counted."""
    chain = Chain(DeadlineExceeded("slow"), None)
    chain.ray.takes = 11.0
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(failure_of(chain))
        await chain.clock.advance(11.0)
    assert isinstance(asking.result(), AllProvidersFailed)
    assert chain.observer.of(FellBack) == []
    assert len(chain.observer.of(Unanswered)) == 1


async def test_leaving_early_closes_the_provider() -> None:
    """An abandoned answer is closed at its provider and recorded as cancelled."""
    chain = Chain(None, None)
    async with chain.chain.open(question(), Deadline.after(chain.clock, 10)) as answer:
        assert (await anext(answer.chunks)).text == "Hello"
        assert chain.ray.open_answers == 1
    assert chain.ray.open_answers == 0
    assert [event.outcome for event in chain.observer.of(Answered)] == ["cancelled"]


async def test_cancelling_while_a_provider_works_closes_it() -> None:
    """If the client disconnects before the first token, the answer is closed and no other provider is tried."""
    chain = Chain(None, None)
    chain.ray.takes = 5.0
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(chain.ask())
        await chain.clock.advance(1.0)
        assert chain.ray.open_answers == 1
        asking.cancel()
    assert chain.ray.open_answers == 0
    assert chain.ollama.requests == 0
    (left,) = chain.observer.of(Cancelled)
    assert (left.seconds, left.log.name) == (1.0, "llm.cancelled")
