"""Make a vLLM engine from a specification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mongars.core.errors import ConfigurationError
from mongars.engines.vllm.config import VllmConfig
from mongars.engines.vllm.engine import VllmEngine

if TYPE_CHECKING:
    from mongars.engines.engine_spec import EngineSpec
    from mongars.engines.factories import EngineSetup


def build_engine(spec: EngineSpec, setup: EngineSetup) -> VllmEngine:
    """Make the vLLM engine for `spec`, without an adapter and without starting it.

    Raises `ConfigurationError` if vLLM is not installed or `spec.model_path` is empty.
    """
    if not spec.model_path:
        message = "model_path: the vllm engine needs the path of a model folder."
        raise ConfigurationError(message)
    options = spec.vllm
    config = VllmConfig(
        model_path=Path(spec.model_path),
        model_name=spec.model_name,
        slots=spec.slots,
        context_tokens=spec.context_tokens,
        prompt_cache_scope=setup.prompt_cache_scope,
        dtype=options.dtype,
        gpu_memory_utilization=options.gpu_memory_utilization,
        kv_cache_mib=options.kv_cache_mib,
        enforce_eager=options.enforce_eager,
    )
    return VllmEngine(config, clock=setup.clock, observer=setup.observer)
