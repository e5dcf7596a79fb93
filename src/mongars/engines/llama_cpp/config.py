"""Configuration of the llama.cpp engine; the defaults were chosen by measurements on CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.core.generation import PromptCacheScope


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppConfig:
    """Configuration of one llama.cpp process: a model file in GGUF format (`model_path`) and how to run it.

    `model_name`: the name in answers. `slots`: how many requests it processes at a time, each with a context window of
    `context_tokens`. `threads` None: one per usable core to process prompts, and one fewer (at least 1) to generate
    tokens or to embed. `prompt_batch_tokens`: the most prompt tokens processed in one step; with fewer, a cancelled
    prompt stops sooner and other streams pause for a shorter time (see ADR 0004). `start_timeout`: seconds within
    which the model must be loaded, or the start fails. `stuck_after`: seconds without output, while there are
    requests, after which the process is killed and restarted. `embedding`: whether it embeds texts instead of
    generating answers.
    """

    model_path: Path
    model_name: str
    slots: int = 4
    context_tokens: int = 4096
    """Context window of each slot, for prompt and answer together."""
    threads: int | None = None
    """Number of threads; None: one per usable core for prompts, one less for generating (ADR 0007)."""
    prompt_batch_tokens: int = 16
    prompt_cache_scope: PromptCacheScope = "user"
    """`user`: a request reuses cached prompts of its own scope only; `shared`: of all requests."""
    prompt_cache_mib: int = 0
    """Host memory in MiB for prompts of finished requests, with the scope `shared` only; each slot keeps its own last
    prompt in addition.
    """
    start_timeout: float = 60.0
    """Seconds within which the model must be loaded."""
    stuck_after: float = 30.0
    """Seconds without output, while there are requests, after which the child process is killed and restarted."""
    embedding: bool = False
    """Whether the process embeds texts instead of generating answers."""
