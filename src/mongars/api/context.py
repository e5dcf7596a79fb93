"""The parts that routes use. The composition root makes them once per process."""

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


class Health(Protocol):
    """A part whose health can be checked."""

    async def healthy(self) -> None:
        """Return quickly. Raises `StorageUnavailable` when it does not work."""
        ...


class MetricsPage(Protocol):
    """The measurements, in Prometheus' text format."""

    def render(self) -> tuple[str, bytes]:
        """Content type and page."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """The API's own settings."""

    model_name: str
    coding_model: str | None = None
    """The model for tasks about code; None where the general model does them."""
    embedding_model: str | None = None
    """The model of embeddings; None where none is served."""
    version: str
    no_fallback: str = ""
    """Why there is no local provider; empty where there is one."""
    max_body_bytes: int = 1_000_000
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the API."""
    context_tokens: int | None = None
    """The context window of the models, prompt and answer together; None where it is unknown."""
    answer_timeout: float = 600.0
    """Seconds an answer may take where the client sets no deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiContext:
    """The parts that routes use."""

    config: ApiConfig
    clock: Clock
    llm: LLMIntegration
    embeddings: EmbeddingService
    chat: Chat
    history: History
    database: Health
    authenticator: Authenticator
    metrics: MetricsPage
