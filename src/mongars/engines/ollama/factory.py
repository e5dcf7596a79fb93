"""Make the Ollama engine from a specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.engines.ollama.config import OllamaConfig
from mongars.engines.ollama.engine import OllamaEngine

if TYPE_CHECKING:
    from mongars.engines.engine_spec import EngineSpec
    from mongars.engines.factories import EngineSetup


def build_engine(spec: EngineSpec, setup: EngineSetup) -> OllamaEngine:
    """Make an engine for the model `spec.model_name` on the server at `spec.url`, without connecting to it.

    Of `spec`, also `slots` and `context_tokens` are used; of `setup`, clock and observer.
    """
    config = OllamaConfig(
        url=spec.url, model=spec.model_name, slots=spec.slots, context_tokens=spec.context_tokens
    )
    return OllamaEngine(config, clock=setup.clock, observer=setup.observer)
