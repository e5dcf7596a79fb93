"""One scenario of the fault catalogue, played over real sockets: who is asked, and what is seen."""

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
"""Seconds between the tokens of every answer, so that content is there before a fault is."""
ALIVE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the caller got; times in seconds from the scenario's beginning."""

    asked: float
    ended: float
    first: float | None = None
    """When the first content came; None for an answer in one piece."""
    completion: Completion | None = None
    error: MongarsError | None = None
    provider: str = ""

    @property
    def right(self) -> bool:
        """Whether it is the whole answer."""
        return self.completion is not None and self.completion.text == TEXT

    @property
    def seconds(self) -> float:
        """How long the caller waited for the end."""
        return self.ended - self.asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All of a scenario: the caller's side, and the log of either fake."""

    told: tuple[Told, ...]
    primary: tuple[float, ...]
    """When each attempt arrived at the first choice."""
    fallback: tuple[float, ...]
    alive: bool
    """Whether the next answer came within ten seconds once the fault was over."""

    @property
    def attempts(self) -> int:
        """At both."""
        return len(self.primary) + len(self.fallback)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens: faults of the first choice, in order and then always; how often it is asked."""

    faults: tuple[Fault, ...] = ()
    always: Fault = field(default_factory=lambda: FaultyResponse(token_delay=PACE))
    rounds: int = 1
    every: float = 0.0
    """Seconds from one question to the next."""


class World:
    """A first choice, a healthy second one, and the client before them with its default timers."""

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
        """Everything, the check that all is well afterwards included."""
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
    """Both fakes on ports of their own."""
    async with FakeReplica() as primary, FakeOllama() as fallback:
        yield World(script, primary, fallback)
