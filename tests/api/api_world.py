"""All parts of an API process, over a temporary database and the deterministic fake engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongars.api.accounts import Authenticator, create_account
from mongars.api.context import ApiConfig, ApiContext
from mongars.api.credentials import Keys, Passwords, TokenConfig, Tokens
from mongars.api.key_cache import KeyCache
from mongars.api.throttle import LoginThrottle
from mongars.conversation.chat import Chat, ChatConfig
from mongars.core.clock import SystemClock
from mongars.core.observe import Silent
from mongars.inference.embedding_service import EmbeddingService
from mongars.persistence.conversations import SqlConversations
from mongars.persistence.sql_accounts import SqlAccounts

if TYPE_CHECKING:
    import aiohttp

    from mongars.engines.fake import FakeEngine
    from mongars.inference.integration import LLMIntegration
    from mongars.persistence.database import Database
    from mongars.telemetry.instruments import Instruments


CLOCK = SystemClock()
CONTEXT_TOKENS = 200
SETTINGS: dict[str, Any] = {"model_name": "fake", "version": "test", "max_body_bytes": 1_000_000}


@dataclass(frozen=True)
class Api:
    url: str
    key: str
    other_key: str
    admin_key: str
    engine: FakeEngine
    http: aiohttp.ClientSession

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


def make_context(
    database: Database,
    llm: LLMIntegration,
    metrics: Instruments,
    *,
    embeddings: EmbeddingService | None = None,
    **settings: Any,
) -> ApiContext:
    history = SqlConversations(database, CLOCK)
    chat = ChatConfig(context_tokens=CONTEXT_TOKENS, answer_tokens=64)
    return ApiContext(
        config=ApiConfig(**{**SETTINGS, **settings}),
        clock=CLOCK,
        llm=llm,
        embeddings=embeddings or EmbeddingService((), clock=CLOCK, observer=Silent()),
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


async def add_user(database: Database, name: str, *, is_admin: bool = False) -> str:
    store = SqlAccounts(database, CLOCK)
    await create_account(
        store, Passwords(), username=name, password=f"{name}-password", is_admin=is_admin
    )
    issued = Keys().issue(name, "test", is_admin=is_admin)
    await store.create_key(issued.record)
    return issued.plaintext
