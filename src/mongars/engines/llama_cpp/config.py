"""Configuration of the llama.cpp engine; the defaults were measured on CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.core.generation import PromptCacheScope


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppConfig:
    """One engine process: a model file and how to run it.

    `prompt_batch_tokens` bounds how long one step of prompt processing takes, and with it how
    soon a cancelled prompt stops and how long other streams pause for it (see ADR 0004).
    """

    model_path: Path
    model_name: str
    slots: int = 4
    context_tokens: int = 4096
    """Per slot, prompt and answer together."""
    threads: int | None = None
    """None: every core this process may use to read prompts, one less to write (ADR 0007)."""
    prompt_batch_tokens: int = 16
    prompt_cache_scope: PromptCacheScope = "user"
    """`user`: a request reuses prompts of its own scope only; `shared`: of all requests."""
    prompt_cache_mib: int = 0
    """Host memory for prompts of finished requests, with the scope `shared` only; each slot keeps
    its own last prompt anyway."""
    start_timeout: float = 60.0
    """Seconds within which the model must be loaded."""
    stuck_after: float = 30.0
    """Seconds without output while there are requests, after which the child is killed."""
    embedding: bool = False
    """Serve vectors instead of answers."""
