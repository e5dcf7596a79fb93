"""Build and run the API process: creates the implementation of every interface from the settings."""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import uvicorn

from mongars.api.accounts import Authenticator
from mongars.api.app import build_app
from mongars.api.context import ApiConfig, ApiContext
from mongars.api.credentials import Passwords, TokenConfig, Tokens
from mongars.api.key_cache import KeyCache
from mongars.api.refused_requests import refused_body
from mongars.api.throttle import LoginThrottle
from mongars.bootstrap.api_models import build_models, secret_key
from mongars.bootstrap.connection_limits import guarded_protocol
from mongars.bootstrap.memory import give_memory_back
from mongars.bootstrap.model import no_fallback
from mongars.conversation.chat import Chat, ChatConfig
from mongars.core.clock import SystemClock
from mongars.core.observe import Note
from mongars.persistence.conversations import SqlConversations
from mongars.persistence.database import Database
from mongars.persistence.sql_accounts import SqlAccounts
from mongars.telemetry import names
from mongars.telemetry.inference_metrics import InferenceMetrics
from mongars.telemetry.instruments import Instruments
from mongars.telemetry.logs import LogObserver, configure_logs
from mongars.telemetry.observers import CompositeObserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from mongars.core.clock import Clock
    from mongars.core.observe import Observer
    from mongars.settings import Settings

DRAIN_SECONDS = 3
KEEP_ALIVE_SECONDS = 75
GARBAGE_THRESHOLD = 10_000


def api_app(settings: Settings) -> ASGIApp:
    """Build the ASGI application of the API process, and configure logging of this process.

    The application's lifespan opens database and models, and closes them. Writes a log event for each warning of the
    settings. Raises `ConfigurationError` if a setting is wrong.
    """
    configure_logs(level=settings.log_level)
    instruments = Instruments(version=version("mongars"))
    observer = CompositeObserver(LogObserver(), InferenceMetrics(instruments))
    for warning in settings.warnings:
        observer.observe(Note(log=names.SETTINGS_WARNING, values={"detail": warning}))
    if missing := no_fallback(settings):
        observer.observe(Note(log=names.NO_FALLBACK, values={"detail": missing}))
    parts = ApiParts.make(settings, observer=observer, instruments=instruments)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(instruments.close)
            await stack.enter_async_context(parts.database)
            await stack.enter_async_context(parts.context.llm)
            await stack.enter_async_context(parts.context.embeddings)
            _spare_garbage_collection()
            observer.observe(Note(log=names.API_STARTED))
            yield
            observer.observe(Note(log=names.API_STOPPED))

    return build_app(parts.context, lifespan)


def _spare_garbage_collection() -> None:
    """Shorten Python's garbage collection: exempt all objects that exist now, and collect less often.

    Most of what is loaded at start lives until the process ends, and scanning it again and again would be the longest
    pause in the answers of this process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


def serve_api(settings: Settings, *, host: str | None, port: int | None) -> None:
    """Serve the API over HTTP until SIGTERM or SIGINT.

    Running requests then have 3 seconds to end and are cancelled after that. `host` and `port` replace `MONGARS_HOST`
    and `MONGARS_PORT` unless None. Raises `ConfigurationError` if a setting is wrong.
    """
    app = api_app(settings)
    give_memory_back()
    uvicorn.run(
        app,
        host=host or settings.environment.host,
        port=port or settings.environment.port,
        loop="uvloop",
        http=guarded_protocol(
            settings,
            LogObserver(),
            hosts=settings.environment.allowed_hosts,
            error_body=refused_body,
        ),
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # a client could claim another address
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """The objects of the API process: `context`, which the route handlers use, and the `database` behind it.

    The caller opens `database`, `context.llm` and `context.embeddings` as asynchronous contexts before it serves
    requests.
    """

    context: ApiContext
    database: Database

    @classmethod
    def make(cls, settings: Settings, *, observer: Observer, instruments: Instruments) -> ApiParts:
        """Create all objects of the API process from the settings, without opening a connection or starting an engine.

        `observer` receives the events of inference; `instruments` is the source of the page `/metrics`. Raises
        `ConfigurationError` if a setting is wrong.
        """
        clock = SystemClock()
        database = Database(settings.database())
        history = SqlConversations(database, clock)
        models = build_models(settings, clock=clock, observer=observer)
        llm = models.llm
        context = ApiContext(
            config=ApiConfig(
                model_name=model_name(settings, "general"),
                coding_model=None
                if settings.environment.coding_model is None
                else model_name(settings, "coding"),
                embedding_model=models.embedding_model,
                version=version("mongars"),
                no_fallback=no_fallback(settings),
                max_body_bytes=settings.environment.max_body_bytes,
                context_tokens=settings.environment.context_tokens,
                cors_origins=settings.environment.cors_origins,
            ),
            clock=clock,
            llm=llm,
            embeddings=models.embeddings,
            chat=Chat(history, llm, clock=clock, config=chat_config(settings)),
            history=history,
            database=database,
            authenticator=build_authenticator(settings, database, clock=clock),
            metrics=instruments,
        )
        return cls(context=context, database=database)


def model_name(settings: Settings, role: str) -> str:
    """The name, in the API's list of models, of the model configured for the model role `role` (such as `general`).

    Raises `KeyError` for a role without a model, `ConfigurationError` if a model setting names no usable model.
    """
    return settings.provisioning().models[role].name


RESERVED_ANSWER_TOKENS = 512
"""Tokens of the context window that a conversation's history leaves free if no limit is configured."""
REMEMBERED_PARTS = 4
"""If no limit is configured, an answer in a conversation may use 1/`REMEMBERED_PARTS` of the context window."""


def chat_config(settings: Settings) -> ChatConfig:
    """The settings of stored conversations: limits of context, history and answers in tokens, and the system prompt."""
    values = settings.environment
    return ChatConfig(
        context_tokens=values.context_tokens,
        answer_tokens=min(values.max_tokens or RESERVED_ANSWER_TOKENS, values.context_tokens // 2),
        # A longer answer would not fit into the context window as history of the next request.
        max_tokens=values.max_tokens or values.context_tokens // REMEMBERED_PARTS,
        system_prompt=values.system_prompt,
    )


def build_authenticator(settings: Settings, database: Database, *, clock: Clock) -> Authenticator:
    """An authenticator that checks credentials against the accounts and API keys in `database`.

    Its login tokens are signed with `SECRET_KEY` or, if that is not set, with the secret stored in the home folder,
    which is generated if it is missing. Raises `ConfigurationError` if the secret is too short or cannot be read or
    written.
    """
    config = TokenConfig(secret=secret_key(settings), minutes=settings.environment.token_minutes)
    return Authenticator(
        SqlAccounts(database, clock),
        tokens=Tokens(config, clock),
        passwords=Passwords(),
        throttle=LoginThrottle(clock),
        cache=KeyCache(clock),
    )
