"""The Ollama engine beyond the contract: what it sends, what it says of itself, and failures."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import (
    GenerationInterrupted,
    InferenceFailed,
    MongarsError,
    NotReady,
    Overloaded,
)
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.ollama.config import OllamaConfig
from mongars.engines.ollama.engine import OllamaEngine
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.faults import Answer, Fault, Reset, Status
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ASK = GenerationRequest(
    messages=(Message(role="user", content="good morning"),),
    request_id="req-1",
    sampling=Sampling(max_tokens=8, response_format={"type": "json_object"}),
)


@asynccontextmanager
async def engine_on(server: FakeOllama, **config: object) -> AsyncIterator[OllamaEngine]:
    made = OllamaEngine(
        OllamaConfig(url=server.base, model="fake", probe_period=0.05, **config),
        clock=SystemClock(),
    )
    await made.start()
    try:
        yield made
    finally:
        await made.aclose()


async def read(engine: OllamaEngine) -> bytes:
    async with engine.stream(ASK) as blocks:
        return b"".join([block async for block in blocks])


async def test_answers_are_the_base_models_and_degraded() -> None:
    """Ollama cannot load our adapters, and no answer of it pretends otherwise."""
    async with FakeOllama() as server, engine_on(server) as engine:
        await read(engine)
        assert engine.origin.adapter_version == "base"
        assert engine.origin.degraded
        sent = server.received[-1].body
    assert sent["format"] == "json"
    assert sent["options"]["num_predict"] == 8
    assert sent["truncate"] is False


async def test_model_that_is_not_there_fails_the_start_and_says_how_to_get_it() -> None:
    """A replica without its model never turns healthy; its message is the next command."""
    async with FakeOllama(models=("other:latest",)) as server:
        with pytest.raises(InferenceFailed, match="ollama pull fake"):
            async with engine_on(server):
                pass


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        pytest.param(Status(code=503, error="busy"), Overloaded, id="503"),
        pytest.param(Status(code=429, error="busy"), Overloaded, id="429"),
        pytest.param(Status(code=500, error="broken"), InferenceFailed, id="500"),
        pytest.param(Answer(cut_after=3), GenerationInterrupted, id="cut"),
        pytest.param(Answer(error_after=3), GenerationInterrupted, id="error-line"),
    ],
)
async def test_failures_of_the_server_are_errors_of_ours(
    fault: Fault, error: type[MongarsError]
) -> None:
    """Refusals keep a status; a cut stream never ends like a complete one."""
    async with FakeOllama(fault) as server, engine_on(server) as engine:
        with pytest.raises(error):
            await read(engine)
        assert (await read(engine)).endswith(b"data: [DONE]\n\n")


async def test_lost_server_is_looked_for_and_found_again() -> None:
    """While the server is gone the engine is not ready; it comes back by itself."""
    async with FakeOllama(Reset()) as server, engine_on(server) as engine:
        with pytest.raises(MongarsError):
            await read(engine)
        assert engine.status.restarts == 1
        await eventually(lambda: engine.status.state == "ready", seconds=2)
        assert await read(engine)


async def test_stopped_engine_refuses() -> None:
    """After `aclose` nothing is sent any more."""
    async with FakeOllama() as server:
        async with engine_on(server) as engine:
            pass
        with pytest.raises(NotReady):
            await read(engine)
