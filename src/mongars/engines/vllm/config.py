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
    """Configuration of one vLLM engine: one model, at most one adapter, and the memory and limits that it uses.

    `model_path`: a model folder in Hugging Face's format. `slots`: requests processed at a time. `context_tokens`: the
    context window. `gpu_memory_utilization`: the share (0 to 1) of the device's memory to use. `kv_cache_mib`: the size
    of the key-value cache in MiB; None: what the share leaves. `batch_tokens`: the most prompt tokens processed in one
    step; None: chosen by vLLM. `adapter` None: the base model. `start_timeout`: seconds within which the model must be
    loaded, or the start fails.
    """

    model_path: Path
    """Folder with the model in Hugging Face's format; nothing is downloaded."""
    model_name: str
    """The name of the model in answers."""
    slots: int = 8
    """Requests processed at the same time; further ones wait inside vLLM."""
    context_tokens: int = 4096
    """The context window in tokens, prompt and answer of one request together."""
    prompt_cache_scope: PromptCacheScope = "user"
    """`user`: a request reuses cached prompts of the same account only; `shared`: of all requests."""
    dtype: Dtype = "auto"
    gpu_memory_utilization: float = 0.9
    """Share of the device's memory for weights and key-value cache, 0 to 1."""
    kv_cache_mib: int | None = None
    """Size of the key-value cache in MiB, instead of `gpu_memory_utilization`. Set it on a CPU, where the share is of
    all memory. There vLLM also reads `VLLM_CPU_KVCACHE_SPACE`, which takes precedence if it is set.
    """
    batch_tokens: int | None = None
    """The most prompt tokens processed in one step; with smaller steps other streams continue sooner. None: chosen by
    vLLM.
    """
    enforce_eager: bool = False
    """Disable compilation and CUDA graphs: a faster start, but slower answers."""
    adapter: AdapterFolder | None = None
    """The adapter used for every answer; None: the base model."""
    max_lora_rank: int = 16
    """Highest rank an adapter may have; 8, 16, 32, 64, ... A higher limit than needed costs memory and speed."""
    start_timeout: float = 600.0
    """Seconds within which the model must be loaded."""
