"""With random faults, no truncated answer is delivered as complete, and no task or connection is left open.

`CHAOS_REQUESTS=10000 pytest tests/inference/test_chaos.py -s` for the long run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import psutil
import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import AllProvidersFailed, GenerationInterrupted
from mongars.core.generation import Sampling
from mongars.inference.config import InferenceConfig
from mongars.inference.retry.budget import FLOOR_PER_SECOND, MEMORY_SECONDS, SHARE
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Fault, FaultyResponse, Reset, Silence, Status
from mongars.testing.inference import Stack, build, question

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.core.generation import GenerationRequest

CLOCK = SystemClock()
REQUESTS = int(os.environ.get("CHAOS_REQUESTS", "400"))  # noqa: TID251 (a setting of this test)
CALLERS = 16
LEAVING = 0.05
"""Share of the clients that disconnect in the middle of a stream."""

FAULTS: tuple[Fault, ...] = (
    Reset(),
    Status(code=500, error="inference_failed"),
    Status(code=503, error="overloaded", headers={"Retry-After": "0.05"}),
    Status(code=429, error="overloaded"),
    FaultyResponse(cut_after=0),
    FaultyResponse(cut_after=30),
    FaultyResponse(cut_after=45, cut="abort"),
    FaultyResponse(malformed_after=20),
    FaultyResponse(error_after=10),
    FaultyResponse(stall_after=25),
    FaultyResponse(first_delay=3600.0),
    FaultyResponse(done=False),
    FaultyResponse(block=7),
    Silence(),
)


class Weather:
    """Chooses faults, and stops and restarts replicas, at random from a seed."""

    def __init__(self, replicas: Sequence[FakeReplica], seed: int) -> None:
        self._replicas = replicas
        self._random = Random(seed)  # noqa: S311 (random faults, not secrets)

    async def blow(self) -> None:
        """Stop and restart random replicas until cancelled."""
        while True:
            replica = self._random.choice(self._replicas)
            await replica.stop()
            await CLOCK.sleep(self._random.uniform(0.05, 0.4))
            await replica.start()
            await CLOCK.sleep(self._random.uniform(0.2, 0.8))

    def next_fault(self) -> Fault:
        """No fault in three of four cases, else a random one."""
        return self._random.choice(FAULTS) if self._random.random() < 0.25 else FaultyResponse()

    def leaves(self) -> bool:
        return self._random.random() < LEAVING

    def question(self) -> GenerationRequest:
        """One of eight prompts, so that several clients send the same one at the same time."""
        asked = question(f"Say the words, number {self._random.randrange(8)}.")
        return dataclasses.replace(asked, scope="somebody", sampling=Sampling(temperature=0))


async def ask(stack: Stack, asked: GenerationRequest, *, leave_after: int | None) -> str:
    """How one stream ended; checks that its text is complete or reported as interrupted."""
    text, finishes = "", 0
    try:
        async with stack.integration.open(asked) as answer:
            chunks = 0
            async for chunk in answer:
                text += chunk.text
                finishes += chunk.finish_reason is not None
                chunks += 1
                if chunks == leave_after:
                    return "left"
    except GenerationInterrupted:
        assert finishes == 0
        assert TEXT.startswith(text)
        return "cut, and said so"
    except AllProvidersFailed:
        assert text == ""
        return "refused"
    assert text == TEXT
    assert finishes == 1
    return "complete"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"hedge": True}, {"hedge": True, "answer_cache_bytes": 1}],
    ids=["plain", "hedged", "shared"],
)
async def test_chaos_leaves_no_lie_and_no_trace(
    capsys: pytest.CaptureFixture[str], settings: dict[str, float]
) -> None:
    async with FakeReplica() as a, FakeReplica() as b, FakeReplica() as c, FakeOllama() as local:
        weather = Weather((a, b, c), seed=11)
        config = InferenceConfig(
            endpoints=(a.url, b.url, c.url),
            use_ray=True,
            timeout=0.5,
            idle_timeout=0.3,
            max_connections=64,
            scaling_backoff=(0.02, 0.05),
            ollama_host=local.base,
            ollama_model="fake",
            **settings,
        )
        stack = build(config)
        outcomes: Counter[str] = Counter()
        left = iter(range(REQUESTS))
        began = CLOCK.monotonic()

        async def caller() -> None:
            for _ in left:
                for replica in (a, b, c):
                    if not replica.faults:
                        replica.faults.append(weather.next_fault())
                leave_after = 20 if weather.leaves() else None
                outcomes[await ask(stack, weather.question(), leave_after=leave_after)] += 1

        async with stack.integration as llm:
            before = (len(asyncio.all_tasks()), open_files())
            async with asyncio.TaskGroup() as group:
                blowing = group.create_task(weather.blow())
                async with asyncio.TaskGroup() as callers:
                    for _ in range(CALLERS):
                        callers.create_task(caller())
                blowing.cancel()
            seconds = CLOCK.monotonic() - began
            for replica in (a, b, c):
                await replica.stop()
                await replica.start()
            ray = (await llm.status())[0]
            assert [endpoint.in_flight for endpoint in ray.endpoints] == [0, 0, 0]
            await CLOCK.sleep(0.5)
            gc.collect()
            after = (len(asyncio.all_tasks()), open_files())
        sent = sum(len(replica.received) for replica in (a, b, c))
        names = Counter(stack.observer.names)
        memory = psutil.Process().memory_info().rss / 1e6
        with capsys.disabled():
            print(  # noqa: T201 (the figures of the long run)
                f"\n  chaos: {REQUESTS} requests in {seconds:.0f} s: {dict(outcomes)}; sent to Ray"
                f" {sent}, hedged {names['llm.ray.hedge']}, tasks {before[0]} -> {after[0]}, files {before[1]} -> {after[1]},"
                f" {memory:.0f} MB"
            )
        assert outcomes.total() == REQUESTS
        assert outcomes["complete"] > 0.8 * REQUESTS
        assert sent <= REQUESTS * (1 + SHARE) + FLOOR_PER_SECOND * (seconds + MEMORY_SECONDS)
        assert after[0] <= before[0] + 12, "background probes and the servers' own tasks"
        assert after[1] <= before[1] + 3 * config.max_keepalive + 8


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
