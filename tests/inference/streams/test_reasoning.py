"""Models that reason before they answer, such as DeepSeek, Qwen and gpt-oss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ray_harness import ray_harness, read_into

from mongars.core.errors import GenerationInterrupted
from mongars.inference.config import InferenceConfig
from mongars.inference.events import FellBack
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, FaultyResponse
from mongars.testing.inference import build, question

if TYPE_CHECKING:
    from mongars.core.generation import Completion

THOUGHTS = " ".join(["hmm"] * 30)


async def complete(config: InferenceConfig) -> tuple[Completion, int]:
    """The whole answer with that configuration, and the number of fallbacks."""
    stack = build(config)
    async with stack.integration as integration:
        async with integration.open(question()) as answer:
            accumulated = AnswerAccumulator()
            async for chunk in answer:
                accumulated.add(chunk)
        return accumulated.completion(answer.origin), len(stack.observer.of(FellBack))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
async def test_thinking_longer_than_the_first_token_may_take_is_answered(field: str) -> None:
    """Reasoning counts as content for the first-token timeout, in any field, and is kept apart from the text."""
    slow = FaultyResponse(reasoning=THOUGHTS, reasoning_field=field, token_delay=0.03)
    async with FakeReplica(slow) as replica, ray_harness(replica.url, timeout=0.5) as ray:
        accumulated = AnswerAccumulator()
        async with ray.open() as stream:
            await read_into(accumulated, stream)
        whole = accumulated.completion(stream.origin)
        assert (whole.text, whole.choices[0].reasoning) == (TEXT, THOUGHTS)
        assert len(replica.received) == 1
        assert [endpoint.state for endpoint in await ray.endpoints()] == ["up"]


async def test_ollama_may_think_longer_than_a_first_token_may_take() -> None:
    """Ollama's reasoning counts as content for the first-token timeout, and is kept apart from the text."""
    async with FakeOllama() as server:
        server.always = FaultyResponse(reasoning=THOUGHTS, token_delay=0.03)
        config = InferenceConfig(
            endpoints=(), use_ray=False, ollama_host=server.base, ollama_model="fake", timeout=0.5
        )
        whole, fallbacks = await complete(config)
    assert (whole.text, whole.choices[0].reasoning) == (TEXT, THOUGHTS)
    assert fallbacks == 0


async def test_an_answer_with_delivered_reasoning_is_not_completed_elsewhere() -> None:
    """An answer cut after its reasoning was delivered ends with an error; no other provider completes it."""
    cut = FaultyResponse(reasoning=THOUGHTS, cut_after=5)
    async with FakeReplica(cut) as replica, FakeOllama() as server:
        config = InferenceConfig(
            endpoints=(replica.url,),
            use_ray=True,
            ollama_host=server.base,
            ollama_model="fake",
        )
        stack = build(config)
        async with stack.integration as integration, integration.open(question()) as answer:
            with pytest.raises(GenerationInterrupted):
                async for _ in answer:
                    pass
        assert not server.received


async def test_silence_within_the_thoughts_is_noticed() -> None:
    """A model that stops in the middle of its reasoning is cut at the idle timeout."""
    silent = FaultyResponse(reasoning=THOUGHTS, text="", stall_after=0, finish=False, done=False)
    async with (
        FakeReplica(silent) as replica,
        ray_harness(replica.url, idle_timeout=0.2) as ray,
    ):
        with pytest.raises(GenerationInterrupted):
            await ray.ask()
