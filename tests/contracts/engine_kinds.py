"""The engine implementations that the engine contract runs against; a new one is one entry of `KINDS`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from mongars.core.clock import SystemClock
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.engines.ollama.config import OllamaConfig
from mongars.engines.ollama.engine import OllamaEngine
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.faults import Echo
from support import started
from vllm_pool import CONTEXT, SLOTS, VLLM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from mongars.engines.engine import Engine

CLOCK = SystemClock()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """One implementation of the `Engine` interface."""

    ready: Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Engine]]
    """Yields a started engine with `SLOTS` slots and a context of `CONTEXT` tokens."""
    marks: tuple[pytest.MarkDecorator, ...] = ()
    only_with: str = ""
    """The pytest marker that `-m` must name for this kind to run; "" for always."""


@asynccontextmanager
async def _fake(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    plan = FakePlan(slots=SLOTS, context_tokens=CONTEXT, token_delay=0.005)
    async with started(FakeEngine(plan, clock=CLOCK)) as engine:
        yield engine


@asynccontextmanager
async def _llama_cpp(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    config = LlamaCppConfig(
        model_path=request.getfixturevalue("base_model"),
        model_name="smollm2",
        slots=SLOTS,
        context_tokens=CONTEXT,
    )
    async with started(LlamaCppEngine(config, clock=CLOCK)) as engine:
        yield engine


@asynccontextmanager
async def _ollama(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    async with FakeOllama() as server:
        server.always = Echo(token_delay=0.005, context_tokens=CONTEXT, parallel=SLOTS)
        config = OllamaConfig(url=server.base, model="fake", slots=SLOTS, context_tokens=CONTEXT)
        async with started(OllamaEngine(config, clock=CLOCK)) as engine:
            yield engine


@asynccontextmanager
async def _vllm(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    yield await request.getfixturevalue("vllm_engines").ready()


KINDS = {
    "fake": EngineKind(ready=_fake),
    "llama_cpp": EngineKind(ready=_llama_cpp, marks=(pytest.mark.model,)),
    "ollama": EngineKind(ready=_ollama),
    "vllm": EngineKind(ready=_vllm, marks=VLLM, only_with="vllm"),
}
