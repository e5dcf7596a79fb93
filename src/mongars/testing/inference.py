"""Building an `LLMIntegration` with real providers, for tests against fake servers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.clock import SystemClock
from mongars.core.generation import GenerationRequest, Message
from mongars.core.ids import new_id
from mongars.inference.embedded import Embedded
from mongars.inference.http.http_pool import HttpPool
from mongars.inference.integration import LLMIntegration
from mongars.inference.ollama.provider import Ollama
from mongars.inference.ray.provider import RayServe
from mongars.testing.recording import RecordingObserver

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.engines.engine import Engine
    from mongars.inference.config import InferenceConfig
    from mongars.inference.provider import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """An `LLMIntegration` (the client of all model servers) for a test, and the observer that records its events.

    `build` creates it; the test enters `integration` as an asynchronous context.
    """

    integration: LLMIntegration
    observer: RecordingObserver


def build(
    config: InferenceConfig,
    *,
    engine: Engine | None = None,
    context_tokens: int | None = None,
    clock: Clock | None = None,
) -> Stack:
    """Build an `LLMIntegration` with up to three providers, in this order: Ray Serve, Ollama, `engine`.

    Ray Serve and Ollama are included if `config` has endpoints for them.

    `engine` None: without an embedded engine. `context_tokens` is the context window of `engine`; None if unknown.
    `clock` None: the system's clock.
    """
    clock = clock or SystemClock()
    observer = RecordingObserver()
    http = HttpPool(config)
    chance = random.SystemRandom().random
    providers: list[Provider] = []
    if config.ray_active:
        sole = engine is None and config.ollama_host is None
        providers.append(
            RayServe(
                config, http, clock=clock, observer=observer, random=chance, sole_provider=sole
            )
        )
    if config.ollama_host is not None:
        providers.append(Ollama(config, http, clock=clock))
    if engine is not None:
        providers.append(Embedded(engine, config, context_tokens=context_tokens))
    integration = LLMIntegration(config, tuple(providers), clock=clock, observer=observer)
    return Stack(integration=integration, observer=observer)


def question(text: str = "Say the words.") -> GenerationRequest:
    """A generation request with one user message, a new request id and a fixed session id."""
    return GenerationRequest(
        messages=(Message(role="user", content=text),),
        request_id=new_id("req"),
        session_id="session-of-somebody",
    )
