"""One scenario of the fault catalogue over real sockets: its servers, its client, and the recorded results."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mongars.core.clock import SystemClock
from mongars.core.errors import MongarsError
from mongars.inference.config import InferenceConfig
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Fault, FaultyResponse
from mongars.testing.inference import build, question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.generation import Completion
    from mongars.inference.integration import LLMIntegration

CLOCK = SystemClock()
PACE = 0.02
"""Seconds between the tokens of every answer, so that content arrives before a fault occurs."""
ALIVE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The result of one request; times are in seconds since the scenario began."""

    asked: float
    ended: float
    first: float | None = None
    """When the first content arrived; None for an answer in one piece."""
    completion: Completion | None = None
    error: MongarsError | None = None
    provider: str = ""

    @property
    def right(self) -> bool:
        """Whether the answer is complete and right."""
        return self.completion is not None and self.completion.text == TEXT

    @property
    def seconds(self) -> float:
        """The seconds from the request to its end."""
        return self.ended - self.asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The results of a scenario: its requests, and when attempts arrived at either fake."""

    told: tuple[Told, ...]
    primary: tuple[float, ...]
    """When each attempt arrived at the primary endpoint."""
    fallback: tuple[float, ...]
    alive: bool
    """Whether, after the fault, the next answer came within ten seconds."""

    @property
    def attempts(self) -> int:
        """The number of attempts at both fakes."""
        return len(self.primary) + len(self.fallback)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The faults of the primary endpoint, first in order and then always, and how many requests are sent."""

    faults: tuple[Fault, ...] = ()
    always: Fault = field(default_factory=lambda: FaultyResponse(token_delay=PACE))
    rounds: int = 1
    every: float = 0.0
    """Seconds from one request to the next."""


class World:
    """A primary endpoint, a healthy fallback, and a client of both with default timeouts."""

    def __init__(self, script: Script, primary: FakeReplica, fallback: FakeOllama) -> None:
        config = InferenceConfig(
            endpoints=(primary.url,),
            use_ray=True,
            ollama_host=fallback.base,
            ollama_model="fake",
        )
        self._script = script
        self._primary = primary
        self._fallback = fallback
        self._integration = build(config).integration
        self._began = 0.0

    async def play(self, *, streamed: bool) -> Seen:
        """Run the script, and then one request without a fault."""
        async with self._integration as llm:
            self._began = CLOCK.monotonic()
            self._primary.faults.extend(self._script.faults)
            self._primary.always = self._script.always
            self._fallback.always = FaultyResponse(token_delay=PACE)
            told = []
            for index in range(self._script.rounds):
                await CLOCK.sleep(index * self._script.every - self._now())
                told.append(await self._ask(llm, streamed=streamed))
            primary, fallback = self._arrivals(self._primary), self._arrivals(self._fallback)
            self._primary.faults.clear()
            self._primary.always = FaultyResponse(token_delay=PACE)
            after = await self._ask(llm, streamed=False)
        return Seen(
            told=tuple(told),
            primary=primary,
            fallback=fallback,
            alive=after.right and after.seconds <= ALIVE_SECONDS,
        )

    async def _ask(self, llm: LLMIntegration, *, streamed: bool) -> Told:
        asked, first = self._now(), None
        try:
            if not streamed:
                completion, route = await llm.generate(question())
            else:
                accumulated = AnswerAccumulator()
                async with llm.open(question()) as answer:
                    async for chunk in answer:
                        first = first or self._now()
                        accumulated.add(chunk)
                    completion, route = accumulated.completion(answer.origin), answer.route
        except MongarsError as error:
            return Told(asked=asked, ended=self._now(), first=first, error=error)
        return Told(
            asked=asked,
            ended=self._now(),
            first=first,
            completion=completion,
            provider=route.provider,
        )

    def _now(self) -> float:
        return CLOCK.monotonic() - self._began

    def _arrivals(self, fake: FakeReplica | FakeOllama) -> tuple[float, ...]:
        return tuple(request.at - self._began for request in fake.received)


@asynccontextmanager
async def world(script: Script) -> AsyncIterator[World]:
    """A world with both fakes, on ports of their own."""
    async with FakeReplica() as primary, FakeOllama() as fallback:
        yield World(script, primary, fallback)
