"""While one account floods the API, requests of another account are still answered by Ray."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from mongars.core.clock import SystemClock
from mongars.core.generation import Sampling
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.config import InferenceConfig
from mongars.serving.config import ReplicaConfig
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.inference import build, question
from mongars.testing.loopback_server import serving
from support import eventually

if TYPE_CHECKING:
    from mongars.inference.integration import LLMIntegration

CLOCK = SystemClock()
GENERATION = 0.4
"""Seconds that one choice takes."""


async def flood(llm: LLMIntegration, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
    request = dataclasses.replace(question("a"), sampling=Sampling(n=8), scope="A")

    async def send() -> None:
        await llm.generate(request)

    return [group.create_task(send()) for _ in range(14)]


async def test_every_request_of_another_account_is_answered_by_ray() -> None:
    """While 14 requests of eight choices wait, each of five requests of another account is answered by Ray."""
    engine = FakeEngine(FakePlan(first_token_delay=GENERATION), clock=CLOCK)
    replica = Replica({"general": engine}, ReplicaConfig(), clock=CLOCK, replica_id="r1")
    await replica.start()
    async with serving(build_ingress(replica)) as url:
        built = build(InferenceConfig(endpoints=(f"{url}/generate",), use_ray=True))
        async with built.integration as llm, asyncio.TaskGroup() as group:
            flooding = await flood(llm, group)
            await eventually(lambda: replica.load["active"] == engine.slots)
            began = CLOCK.monotonic()
            for _ in range(5):
                _, route = await llm.generate(dataclasses.replace(question("b"), scope="B"))
                assert (route.provider, route.attempts) == ("ray_serve", 1)
            assert CLOCK.monotonic() - began < 5 * 2 * GENERATION + 2
            assert not any(task.done() for task in flooding)
            for task in flooding:
                task.cancel()
    assert replica.load["active"] == replica.load["waiting"] == 0
