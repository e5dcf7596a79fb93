"""Make llama.cpp's engine and embedder from a specification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.embedder import LlamaCppEmbedder
from mongars.engines.llama_cpp.engine import LlamaCppEngine

if TYPE_CHECKING:
    from mongars.engines.engine_spec import EngineSpec
    from mongars.engines.factories import EngineSetup


def build_engine(spec: EngineSpec, setup: EngineSetup) -> LlamaCppEngine:
    """Make the llama.cpp engine for `spec`, without starting it.

    The model file is `spec.model_path`, or, if that is empty, the one that `setup.model_file` finds on this node.
    Raises `ConfigurationError` if there is none.
    """
    config = _config(spec, setup, embedding=False)
    return LlamaCppEngine(config, clock=setup.clock, observer=setup.observer)


def build_embedder(spec: EngineSpec, setup: EngineSetup) -> LlamaCppEmbedder:
    """Make the llama.cpp embedder for `spec`, without starting it.

    The model file is `spec.model_path`, or, if that is empty, the one that `setup.model_file` finds on this node.
    Raises `ConfigurationError` if there is none.
    """
    config = _config(spec, setup, embedding=True)
    return LlamaCppEmbedder(config, clock=setup.clock, observer=setup.observer)


def _config(spec: EngineSpec, setup: EngineSetup, *, embedding: bool) -> LlamaCppConfig:
    return LlamaCppConfig(
        model_path=Path(spec.model_path) if spec.model_path else setup.model_file(),
        model_name=spec.model_name,
        slots=spec.slots,
        context_tokens=spec.context_tokens,
        threads=spec.threads,
        prompt_batch_tokens=spec.prompt_batch_tokens,
        prompt_cache_scope=setup.prompt_cache_scope,
        prompt_cache_mib=spec.prompt_cache_mib,
        stuck_after=setup.stuck_after,
        embedding=embedding,
    )
