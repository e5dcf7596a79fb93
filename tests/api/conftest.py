"""Fixtures: an API process over a temporary database and the deterministic fake engine."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from api_world import CLOCK, CONTEXT_TOKENS, Api, add_user, make_context

from mongars.api.app import build_app
from mongars.core.generation import Sampling
from mongars.core.observe import Silent
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.config import InferenceConfig
from mongars.inference.embedded import Embedded
from mongars.inference.embedding_service import EmbeddingService
from mongars.inference.http.http_pool import HttpPool
from mongars.inference.integration import LLMIntegration
from mongars.inference.local_embedder import LocalEmbedder
from mongars.inference.ray.embedding_exchange import RayEmbeddings
from mongars.inference.ray.http_exchange import ExchangeContext
from mongars.inference.ray.provider import RayServe
from mongars.persistence.config import DatabaseConfig
from mongars.persistence.database import Database
from mongars.persistence.migrate import upgrade
from mongars.telemetry.inference_metrics import InferenceMetrics
from mongars.telemetry.instruments import Instruments
from mongars.telemetry.observers import CompositeObserver
from mongars.testing.loopback_server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from fastapi import FastAPI

    from mongars.api.context import ApiContext
    from mongars.api.dialect import RouteTable
    from mongars.core.observe import Observer
    from mongars.engines.embedder import Embedder
    from mongars.inference.embedding import EmbeddingProvider
    from mongars.inference.provider import Provider


@pytest.fixture
def start_api(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Api]]:
    """Starts an API whose fake engine behaves as `plan` says; `settings` are fields of its `ApiConfig`.

    `more`: route tables served beside those of the product; `client`: further fields of its
    `InferenceConfig`.
    """

    @asynccontextmanager
    async def start(
        plan: FakePlan | None = None,
        *,
        endpoints: tuple[str, ...] = (),
        cache_bytes: int = 0,
        embedder: Embedder | None = None,
        observer: Observer | None = None,
        client: dict[str, Any] | None = None,
        more: tuple[Callable[[ApiContext], RouteTable], ...] = (),
        **settings: Any,
    ) -> AsyncIterator[Api]:
        database_config = DatabaseConfig(url=f"sqlite:///{tmp_path / 'api.db'}")
        upgrade(database_config)
        metrics = Instruments(version="test")
        engine = FakeEngine(plan or FakePlan(context_tokens=CONTEXT_TOKENS), clock=CLOCK)
        config = InferenceConfig(
            endpoints=endpoints,
            use_ray=bool(endpoints),
            sampling=Sampling(max_tokens=64),
            answer_cache_bytes=cache_bytes,
            **(client or {}),
        )
        observer = CompositeObserver(observer or Silent(), InferenceMetrics(metrics))
        embedding_providers: list[EmbeddingProvider] = []
        providers: list[Provider] = [Embedded(engine, config)]
        if endpoints:
            http = HttpPool(config)
            ray = RayServe(config, http, clock=CLOCK, observer=observer, random=lambda: 0.5)
            providers.insert(0, ray)
            exchange = ExchangeContext(config=config, http=http, clock=CLOCK)
            embedding_providers.append(RayEmbeddings(ray.client, exchange))
        if embedder is not None:
            embedding_providers.append(LocalEmbedder(embedder, config))
        embeddings = EmbeddingService(tuple(embedding_providers), clock=CLOCK, observer=observer)
        llm = LLMIntegration(config, tuple(providers), clock=CLOCK, observer=observer)
        async with Database(database_config) as database:
            context = make_context(database, llm, metrics, embeddings=embeddings, **settings)
            keys = [await add_user(database, name) for name in ("alice", "bob")]
            admin_key = await add_user(database, "carol", is_admin=True)

            @asynccontextmanager
            async def lifespan(_: FastAPI) -> AsyncIterator[None]:
                async with llm, embeddings:
                    yield
                metrics.close()

            async with (
                serving(build_app(context, lifespan, more=more)) as url,
                aiohttp.ClientSession() as http,
            ):
                yield Api(url, keys[0], keys[1], admin_key, engine, http)

    return start


@pytest.fixture
async def api(start_api: Callable[..., AbstractAsyncContextManager[Api]]) -> AsyncIterator[Api]:
    async with start_api() as started:
        yield started
