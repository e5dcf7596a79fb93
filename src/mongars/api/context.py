"""The objects and settings that route handlers use. `bootstrap` creates them once per process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mongars.api.accounts import Authenticator
    from mongars.conversation.chat import Chat
    from mongars.conversation.history import History
    from mongars.core.clock import Clock
    from mongars.inference.embedding_service import EmbeddingService
    from mongars.inference.integration import LLMIntegration


class HealthCheck(Protocol):
    """Interface of a component whose health can be checked, such as the database."""

    async def healthy(self) -> None:
        """Return within about two seconds if the component works; raise `StorageUnavailable` if it does not."""
        ...


class MetricsPage(Protocol):
    """Interface of the source of the page `/metrics`: all metrics of this process in Prometheus' text format."""

    def render(self) -> tuple[str, bytes]:
        """The content type and the body of the response of `/metrics`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """Settings of the API process that its routes use: names of the served models, version, limits and CORS origins.

    `model_name` is the general model's name, `version` that of monGARS; `max_body_bytes` limits request bodies.
    """

    model_name: str
    coding_model: str | None = None
    """Name of the model for tasks about code; None if the general model handles them."""
    embedding_model: str | None = None
    """Name of the embedding model; None if none is served."""
    version: str
    no_fallback: str = ""
    """The reason why there is no local fallback provider; empty if there is one."""
    max_body_bytes: int = 1_000_000
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the API."""
    context_tokens: int | None = None
    """The context window of the models in tokens, prompt and answer together; None if unknown."""
    answer_timeout: float = 600.0
    """The most seconds an answer may take, also the default if the client sets no deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """The objects that route handlers use, created once per process and shared by all requests.

    `llm` generates answers, `chat` generates them for conversations that are stored in `history`; `embeddings` computes
    vectors of texts, `authenticator` checks credentials, and `metrics` makes the page `/metrics`.
    """

    config: ApiConfig
    clock: Clock
    llm: LLMIntegration
    embeddings: EmbeddingService
    chat: Chat
    history: History
    database: HealthCheck
    authenticator: Authenticator
    metrics: MetricsPage
