"""Configuration of the Ollama engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaConfig:
    """Configuration of one model on the Ollama server at `url`; times in seconds.

    `model`: its name on the server, case included; `NAME` means `NAME:latest`. `slots`: requests sent at a time.
    `context_tokens`: the context window; None: the server's default. `connect_timeout`: the longest time to connect,
    `silence_timeout`: the longest time without data; after either, a request fails. `probe_period`: time between two
    attempts to reach a server that does not respond.
    """

    url: str
    model: str
    slots: int = 4
    """Requests sent at the same time; Ollama itself queues those beyond its OLLAMA_NUM_PARALLEL."""
    context_tokens: int | None = None
    """Context window (`num_ctx`); None: the default of the server, which truncates prompts silently."""
    connect_timeout: float = 5.0
    silence_timeout: float = 120.0
    """Longest time that a request may receive no data, loading the model included; after that it fails."""
    probe_period: float = 5.0
    """Time between two attempts to reach a server that does not respond."""
