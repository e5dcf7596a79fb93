"""A finished answer that violates the requested schema is an error, whichever engine wrote it."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import GenerationInterrupted
from mongars.core.generation import Sampling
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.config import InferenceConfig
from mongars.inference.http.http_pool import HttpPool
from mongars.inference.ollama.provider import Ollama
from mongars.inference.provider import Attempts
from mongars.serving.config import ReplicaConfig
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.faults import FaultyResponse
from mongars.testing.inference import question
from mongars.testing.loopback_server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.generation import GenerationRequest

CLOCK = SystemClock()
LISTED = {
    "type": "json_schema",
    "json_schema": {"name": "s", "schema": {"type": "array", "items": {"enum": [1, 2]}}},
}


class Careless(FakeEngine):
    """A fake engine that ignores schemas and repeats the last message."""

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        free = dataclasses.replace(request.sampling, response_format=None, logit_bias=MUTE)
        async with super().stream(dataclasses.replace(request, sampling=free)) as blocks:
            yield blocks


MUTE = tuple((index, -100.0) for index in range(3))
"""A bias that suppresses the fake engine's own words, so that only the repeated message is left."""


async def answered(prompt: str, **more: object) -> tuple[int, bytes]:
    engine = Careless(FakePlan(), clock=CLOCK)
    replica = Replica({"general": engine}, ReplicaConfig(), clock=CLOCK, replica_id="r1")
    await replica.start()
    body = orjson.dumps({"prompt": prompt, "response_format": LISTED, **more})
    async with (
        serving(build_ingress(replica)) as url,
        aiohttp.ClientSession() as http,
        http.post(f"{url}/generate", data=body) as response,
    ):
        return response.status, await response.read()


async def test_a_valid_text_is_an_answer() -> None:
    """A text that follows the schema is returned, in one piece and streamed."""
    status, data = await answered("[1, 2]")
    assert (status, orjson.loads(data)["content"]) == (200, "[1, 2]")
    _, stream = await answered("[1, 2]", stream=True)
    assert stream.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("more", [{}, {"n": 2}], ids=["one", "several"])
@pytest.mark.parametrize("text", ["[1, 3]", "[1, 2] ok", "sorry"])
async def test_a_violation_is_an_error(text: str, more: dict[str, Any]) -> None:
    """A text that violates the schema gives 500, for one choice and for several."""
    status, data = await answered(text, **more)
    assert status == 500
    assert b"response_format" in data


async def test_a_stream_that_violates_ends_with_an_error() -> None:
    """A stream that violates the schema ends with an error event, without `[DONE]` and without a finish reason."""
    status, data = await answered("[1, 3]", stream=True)
    assert status == 200
    assert b"event: error" in data
    assert b"[DONE]" not in data
    assert b'"finish_reason":"stop"' not in data


async def test_a_stop_text_that_cuts_the_answer_is_the_callers_mistake() -> None:
    """If a stop text cuts the JSON, the request is refused with 400 and the name `stop`."""
    status, data = await answered("[1, 2]", stop=[" 2"])
    assert status == 400
    assert orjson.loads(data)["detail"].startswith("stop:")
    status, _ = await answered("[1, 2]", stop=["never"])
    assert status == 200


async def test_an_answer_cut_by_its_length_has_that_finish_reason() -> None:
    """An answer that `max_tokens` cuts is returned with the finish reason `length`, though it violates the schema."""
    status, data = await answered("[1, 2]", max_tokens=1)
    assert status == 200
    assert orjson.loads(data)["finish_reason"] == "length"


@pytest.mark.parametrize(("text", "kept"), [("[1, 2]", True), ("[1, 3]", False)])
async def test_ollama_is_held_to_it_too(text: str, kept: bool) -> None:
    """The Ollama provider checks the server's answer against the schema as well."""
    config_of = {"endpoints": (), "use_ray": False, "ollama_model": "fake"}
    async with FakeOllama(FaultyResponse(text=text)) as server:
        config = InferenceConfig(ollama_host=server.base, **config_of)
        provider = Ollama(config, HttpPool(config), clock=CLOCK)
        asked = dataclasses.replace(question("x"), sampling=Sampling(response_format=LISTED))
        try:
            opened = provider.open(asked, Deadline.after(CLOCK, 30), Attempts(CLOCK))
            if kept:
                async with opened as stream:
                    assert "".join([chunk.text async for chunk in stream.chunks]) == text
                return
            with pytest.raises(GenerationInterrupted, match="response_format"):
                async with opened as stream:
                    assert [chunk async for chunk in stream.chunks]
        finally:
            await provider.aclose()
