"""What a fake replica can be told to do with a request: the switchboard of faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

WORDS = 60
TEXT = " ".join(f"word{n}" for n in range(WORDS - 1)) + " fin."
"""The answer of every healthy fake: sixty words, always the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer, with at most one thing going wrong on the way. Times are in seconds.

    One token is one word. Counts are in tokens: `cut_after=0` cuts before the first one.
    """

    text: str = TEXT
    first_delay: float = 0.0
    token_delay: float = 0.0
    whole: bool = False
    """In one JSON object, as deployments did that could not stream."""
    cut_after: int | None = None
    cut: Literal["close", "abort"] = "close"
    """Whether a cut looks like a regular end of the body, or like a broken connection."""
    stall_after: int | None = None
    malformed_after: int | None = None
    error_after: int | None = None
    finish: bool = True
    done: bool = True
    end_delay: float = 0.0
    """Between the last event and the end of the body."""
    hold_open: bool = False
    """Keep the connection open after the end, without a word."""
    keepalives: bool = False
    """Send comments while delaying or stalling."""
    meta: bool = True
    logprob: float | None = None
    block: int | None = None
    """Cut the bytes into blocks of that size, wherever that falls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Answer with a status and, by default, the error body of `/generate`."""

    code: int
    error: str = ""
    detail: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Answer 200 with exactly that: an error in disguise, something old, something broken."""

    data: bytes
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection before any answer."""


@dataclass(frozen=True, slots=True)
class Silence:
    """Take the request and never say anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """No fault: answer with the words of the question, like the fake engine (Ollama's fake)."""

    token_delay: float = 0.0
    context_tokens: int = 4096
    parallel: int = 4


Fault = Answer | Status | Body | Reset | Silence
