"""A whole API process's worth of parts over a temporary database and the deterministic engine."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import pytest

from mongars.api.accounts import Authenticator, create_account
from mongars.api.app import build_app
from mongars.api.context import ApiConfig, ApiContext
from mongars.api.credentials import Keys, Passwords, TokenConfig, Tokens
from mongars.api.key_cache import KeyCache
from mongars.api.throttle import LoginThrottle
from mongars.conversation.chat import Chat, ChatConfig
from mongars.core.clock import SystemClock
from mongars.core.generation import Sampling
from mongars.core.observe import Silent
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.config import InferenceConfig
from mongars.inference.integration import LLMIntegration
from mongars.inference.providers.embedded import Embedded
from mongars.persistence.accounts import SqlAccounts
from mongars.persistence.config import DatabaseConfig
from mongars.persistence.conversations import SqlConversations
from mongars.persistence.database import Database
from mongars.persistence.migrate import upgrade
from mongars.telemetry.metrics import Metrics, Several
from mongars.testing.server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from fastapi import FastAPI

CLOCK = SystemClock()
CONTEXT_TOKENS = 200


@dataclass(frozen=True)
class Api:
    url: str
    key: str
    other_key: str
    engine: FakeEngine
    http: aiohttp.ClientSession

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture
def start_api(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Api]]:
    """Starts an API whose engine follows a plan."""

    @asynccontextmanager
    async def start(plan: FakePlan | None = None) -> AsyncIterator[Api]:
        database_config = DatabaseConfig(url=f"sqlite:///{tmp_path / 'api.db'}")
        upgrade(database_config)
        metrics = Metrics(version="test")
        engine = FakeEngine(plan or FakePlan(context_tokens=CONTEXT_TOKENS), clock=CLOCK)
        config = InferenceConfig(endpoints=(), use_ray=False, sampling=Sampling(max_tokens=64))
        llm = LLMIntegration(
            config, (Embedded(engine, config),), clock=CLOCK, observer=Several(Silent(), metrics)
        )
        async with Database(database_config) as database:
            context = make_context(database, llm, metrics)
            keys = [await add_user(database, name) for name in ("alice", "bob")]

            @asynccontextmanager
            async def lifespan(_: FastAPI) -> AsyncIterator[None]:
                async with llm:
                    yield
                metrics.close()

            async with (
                serving(build_app(context, lifespan)) as url,
                aiohttp.ClientSession() as http,
            ):
                yield Api(url, keys[0], keys[1], engine, http)

    return start


@pytest.fixture
async def api(start_api: Callable[..., AbstractAsyncContextManager[Api]]) -> AsyncIterator[Api]:
    async with start_api() as started:
        yield started


def make_context(database: Database, llm: LLMIntegration, metrics: Metrics) -> ApiContext:
    history = SqlConversations(database, CLOCK)
    chat = ChatConfig(context_tokens=CONTEXT_TOKENS, answer_tokens=64)
    return ApiContext(
        config=ApiConfig(model_name="fake", version="test", max_body_bytes=1_000_000),
        clock=CLOCK,
        llm=llm,
        chat=Chat(history, llm, clock=CLOCK, config=chat),
        history=history,
        database=database,
        authenticator=Authenticator(
            SqlAccounts(database, CLOCK),
            tokens=Tokens(TokenConfig(secret="s" * 32), CLOCK),
            passwords=Passwords(),
            throttle=LoginThrottle(CLOCK),
            cache=KeyCache(CLOCK),
        ),
        metrics=metrics,
    )


async def add_user(database: Database, name: str) -> str:
    store = SqlAccounts(database, CLOCK)
    await create_account(
        store, Passwords(), username=name, password=f"{name}-password", is_admin=False
    )
    issued = Keys().issue(name, "test")
    await store.create_key(issued.record)
    return issued.plaintext
