"""What the Ollama engine needs to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaConfig:
    """One model on one Ollama server; times in seconds."""

    url: str
    model: str
    slots: int = 4
    """Requests sent at once; Ollama itself queues beyond its OLLAMA_NUM_PARALLEL."""
    context_tokens: int | None = None
    """Window asked for (`num_ctx`); None leaves it to the server, which cuts prompts silently."""
    connect_timeout: float = 5.0
    silence_timeout: float = 120.0
    """Longest silence within a request, the load of the model included; then it counts as lost."""
    probe_period: float = 5.0
    """How often a lost server is looked for."""
