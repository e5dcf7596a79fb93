"""Configuration of the vLLM engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.core.generation import PromptCacheScope
    from mongars.engines.adapter_folder import AdapterFolder

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConfig:
    """One model, and at most one adapter, for one engine."""

    model_path: Path
    """Folder with the model in Hugging Face's format; nothing is ever downloaded."""
    model_name: str
    """The name reported in answers."""
    slots: int = 8
    """Requests processed at the same time; further ones wait inside vLLM."""
    context_tokens: int = 4096
    """The context window in tokens, prompt and answer of one request together."""
    prompt_cache_scope: PromptCacheScope = "user"
    """`user`: a request reuses cached prompts of the same account only; `shared`: of all requests."""
    dtype: Dtype = "auto"
    gpu_memory_utilization: float = 0.9
    """Share of the device's memory for weights and key-value cache."""
    kv_cache_mib: int | None = None
    """Size of the key-value cache, instead of that share. Set it on a CPU, where the share is of all memory.
    There vLLM also reads `VLLM_CPU_KVCACHE_SPACE`, which takes precedence if it is set."""
    batch_tokens: int | None = None
    """Prompt tokens processed in one step; with smaller steps other streams continue sooner."""
    enforce_eager: bool = False
    """Disable compilation and CUDA graphs: a faster start, but slower answers."""
    adapter: AdapterFolder | None = None
    """The adapter of every answer; None for the base model without one."""
    max_lora_rank: int = 16
    """Highest rank an adapter may have; 8, 16, 32, 64, ... More than needed costs memory and speed."""
    start_timeout: float = 600.0
    """Seconds within which the model must be loaded."""
