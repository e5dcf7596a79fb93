"""Build the providers that generate answers and embed texts in the API process."""

from __future__ import annotations

import dataclasses
import hmac
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.bootstrap.model import configured_model, no_fallback
from mongars.bootstrap.secrets import ensure_secret
from mongars.engines.engine_spec import EmbeddingSpec
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.embedder import LlamaCppEmbedder
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.inference.embedded import Embedded
from mongars.inference.embedding_service import EmbeddingService
from mongars.inference.http.http_pool import HttpPool
from mongars.inference.integration import LLMIntegration
from mongars.inference.local_embedder import LocalEmbedder
from mongars.inference.ollama.provider import Ollama
from mongars.inference.ray.embedding_exchange import RayEmbeddings
from mongars.inference.ray.http_exchange import ExchangeContext
from mongars.inference.ray.provider import RayServe

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.core.observe import Observer
    from mongars.inference.embedding import EmbeddingProvider
    from mongars.inference.provider import Provider
    from mongars.settings import Settings

NO_LOCAL_EMBEDDER = (
    "No embedding model on this host. Run on this host: python -m scripts.provision_models (then"
    " restart)."
)
EMBEDDED_SLOTS = 2
"""Requests that the embedded engine processes at the same time; few, as it shares the machine with the API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiModels:
    """The API process's two model services: `llm` generates answers, `embeddings` computes vectors of texts.

    Both send requests to the same Ray Serve endpoints (`RAY_SERVE_URL`), if any are configured.
    """

    llm: LLMIntegration
    embeddings: EmbeddingService
    embedding_model: str | None
    """The name of the embedding model; None if no provider can embed texts."""


def build_models(settings: Settings, *, clock: Clock, observer: Observer) -> ApiModels:
    """Build the services that generate answers and embed texts, each with its providers in the order of trial.

    For answers: Ray Serve and Ollama if the settings configure them, then the embedded llama.cpp engine if its model is
    on this machine. For embeddings: Ray Serve, then llama.cpp if the embedding model is on this machine; Ollama is left
    out, as its models have other names and produce other vectors. Opens no connection. Raises `ConfigurationError` for
    an unusable setting.
    """
    config = dataclasses.replace(
        settings.inference(),
        no_fallback=no_fallback(settings),
        cache_salt_key=_cache_salt_key(settings),
    )
    http = HttpPool(config)
    engine = embedded_engine(settings, clock=clock, observer=observer)
    providers: list[Provider] = []
    embedding_providers: list[EmbeddingProvider] = []
    wanted = settings.provisioning().models.get("embedding")
    if config.ray_active:
        ray = RayServe(
            config,
            http,
            clock=clock,
            observer=observer,
            random=random.random,
            sole_provider=engine is None and config.ollama_host is None,
        )
        providers.append(ray)
        exchange = ExchangeContext(config=config, http=http, clock=clock)
        embedding_providers.append(RayEmbeddings(ray.client, exchange))
    if config.ollama_host is not None:
        providers.append(Ollama(config, http, clock=clock))
    if engine is not None:
        window = settings.environment.context_tokens
        providers.append(Embedded(engine, config, context_tokens=window))
    embedder = local_embedder(settings, clock=clock, observer=observer)
    if embedder is not None:
        embedding_providers.append(LocalEmbedder(embedder, config))
    return ApiModels(
        llm=LLMIntegration(config, tuple(providers), clock=clock, observer=observer),
        embeddings=EmbeddingService(
            tuple(embedding_providers),
            clock=clock,
            observer=observer,
            cure="" if embedder is not None else NO_LOCAL_EMBEDDER,
        ),
        embedding_model=wanted.name if wanted is not None and embedding_providers else None,
    )


def local_embedder(
    settings: Settings, *, clock: Clock, observer: Observer
) -> LlamaCppEmbedder | None:
    """An embedder, not started, that runs the configured embedding model with llama.cpp in a child process.

    None if no embedding model is configured, or its file is not in this machine's model cache (`MONGARS_CACHE`).
    """
    found = configured_model(settings, "embedding")
    if found is None:
        return None
    spec = EmbeddingSpec()
    config = LlamaCppConfig(
        model_path=found.path,
        model_name=found.name,
        slots=spec.slots,
        context_tokens=spec.context_tokens,
        embedding=True,
    )
    return LlamaCppEmbedder(config, clock=clock, observer=observer)


def embedded_engine(
    settings: Settings, *, clock: Clock, observer: Observer
) -> LlamaCppEngine | None:
    """An engine, not started, that runs the configured `general` model with llama.cpp in a child process.

    None if the model file is not in this machine's model cache (`MONGARS_CACHE`).
    """
    found = configured_model(settings)
    if found is None:
        return None
    config = LlamaCppConfig(
        model_path=found.path,
        model_name=found.name,
        slots=EMBEDDED_SLOTS,
        context_tokens=settings.environment.context_tokens,
        prompt_cache_scope=settings.environment.prompt_cache_scope,
    )
    return LlamaCppEngine(config, clock=clock, observer=observer)


def secret_key(settings: Settings) -> str:
    """The secret that signs login tokens: `SECRET_KEY`, else one that is generated once and stored in the home folder.

    All API processes of a deployment must have the same one. Raises `ConfigurationError` if the stored secret cannot be
    read or written.
    """
    given = settings.environment.secret_key
    return ensure_secret(settings.home, "jwt") if given is None else given.get_secret_value()


def _cache_salt_key(settings: Settings) -> bytes:
    return hmac.digest(secret_key(settings).encode(), b"cache_salt", "sha256")
