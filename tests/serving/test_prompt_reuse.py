"""Which requests may share cached prompts, on the replica and through the client."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from mongars.bootstrap.replica import build_engine
from mongars.core.clock import SystemClock
from mongars.core.generation import Sampling
from mongars.core.observe import Silent
from mongars.inference.config import InferenceConfig
from mongars.serving.config import EngineSpec, ReplicaConfig
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.inference import build, question
from mongars.testing.loopback_server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mongars.engines.engine import Engine
    from mongars.inference.integration import LLMIntegration

pytestmark = pytest.mark.model

SECRET = "I was born on 3 May 1961 and earn 5,217 euros a month. What should I save?"
CLOCK = SystemClock()


def engine_of(base_model: Path, config: ReplicaConfig) -> Engine:
    spec = EngineSpec(model_path=str(base_model), slots=2, context_tokens=512)
    return build_engine(spec, config, role="general", observer=Silent())


@asynccontextmanager
async def replica_of(base_model: Path, **options: object) -> AsyncIterator[str]:
    """The address of a replica with the real model and these options."""
    config = ReplicaConfig(**options)
    engines = {"general": engine_of(base_model, config)}
    replica = Replica(engines, config, clock=CLOCK, replica_id="r1")
    await replica.start()
    async with serving(build_ingress(replica)) as url:
        yield f"{url}/generate"


async def cached(url: str, text: str, **fields: object) -> int:
    body: dict[str, Any] = {"prompt": text, "max_tokens": 2, "temperature": 0, **fields}
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
        answer = await response.json()
    assert response.status == 200, answer
    found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


async def test_prompts_are_reused_for_the_same_salt_only(base_model: Path) -> None:
    """A cached prompt is reused only by requests with the same `cache_salt`; requests without one reuse none."""
    async with replica_of(base_model) as url:
        assert await cached(url, SECRET, cache_salt="a", session_id="s") == 0
        assert await cached(url, SECRET, cache_salt="b", session_id="s") == 0
        assert await cached(url, SECRET, cache_salt="a", session_id="s") > 20
        for _ in range(3):
            assert await cached(url, SECRET, session_id="s") == 0
        assert await cached(url, SECRET, cache_salt="") == 0


async def test_operator_may_let_all_callers_share(base_model: Path) -> None:
    """With `prompt_cache_scope: shared`, all requests reuse each other's prompts."""
    async with replica_of(base_model, prompt_cache_scope="shared") as url:
        await cached(url, SECRET, cache_salt="a")
        assert await cached(url, SECRET) > 20


async def asked(llm: LLMIntegration, scope: str | None) -> int:
    request = dataclasses.replace(
        question(SECRET), scope=scope, sampling=Sampling(max_tokens=2, temperature=0)
    )
    completion, _ = await llm.generate(request)
    assert completion.usage is not None
    return completion.usage.cached_tokens


@pytest.mark.parametrize("through", ["replica", "embedded"])
async def test_accounts_read_nothing_of_each_other(base_model: Path, through: str) -> None:
    """No token of a prompt is reused for another account; the account's own second request reuses it."""
    async with replica_of(base_model) as url:
        ray = through == "replica"
        config = InferenceConfig(endpoints=(url,) if ray else (), use_ray=ray, timeout=30)
        embedded = None if ray else engine_of(base_model, ReplicaConfig())
        async with build(config, engine=embedded).integration as llm:
            assert await asked(llm, "anna") == 0
            assert await asked(llm, "ben") == 0
            assert await asked(llm, None) == 0
            assert await asked(llm, "ben") > 20
