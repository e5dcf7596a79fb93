"""What is asked of a model and what comes back, independent of any wire or engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from mongars.core.fair_queue import Share

if TYPE_CHECKING:
    from collections.abc import Sequence

Role = Literal["system", "user", "assistant", "tool"]
TaskRole = Literal["general", "coding"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "function_call"]
"""The last three come from upstream servers only."""
PromptCacheScope = Literal["user", "shared"]
"""Whether an engine reuses prompts within a request's `scope` only, or among all requests."""

BASE_ADAPTER = "baseline"
"""The adapter version of the bare base model; see `core.adapter_pin` for the rule."""

_CODING = frozenset({"code", "coding", "developer"})


def task_role(task_type: str) -> TaskRole:
    """Which model a task asks for; whatever is not about code is general."""
    return "coding" if task_type.strip().lower() in _CODING else "general"


def confidence(logprobs: Sequence[float]) -> float | None:
    """exp(mean token log-probability); None when the engine reported none: never invented."""
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn; None leaves the choice to the serving side's defaults."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    top_k: int | None = None
    """Draw among so many tokens; 0 or less: among all."""
    min_p: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token numbers of the model and what is added to their logits."""
    response_format: dict[str, Any] | None = None
    n: int = 1
    """How many answers to draw."""

    def with_defaults(self, defaults: Sampling) -> Sampling:
        """The same, with what was left open taken from `defaults`."""
        return replace(
            self,
            max_tokens=defaults.max_tokens if self.max_tokens is None else self.max_tokens,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The beginning of an answer that somebody else was cut off in, and whose it was."""

    text: str
    model: str
    adapter_version: str
    adapter_digest: str | None = None

    def was_from(self, origin: Origin) -> bool:
        """Whether these weights wrote it, if there is any of it: only they may go on there."""
        return self.text != "" and (self.model, self.adapter_version, self.adapter_digest) == (
            origin.model,
            origin.adapter_version,
            origin.adapter_digest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One question to a model: the whole conversation so far and how to answer it."""

    messages: tuple[Message, ...]
    request_id: str
    task_type: str = "general"
    sampling: Sampling = field(default_factory=Sampling)
    session_id: str | None = None
    adapter: str | None = None
    """The adapter that must answer: an alias, a version, or `NAME@DIGEST` (`core.adapter_pin`). None:
    the active one of its role."""
    traceparent: str | None = None
    """The caller's W3C trace context, passed on as it came."""
    scope: str | None = None
    """The account it belongs to: its answer, and the engine's work on its prompt, may be reused for
    requests of the same scope. None: for no other request."""
    weight: float = 1.0
    """How much its scope gets where slots are short, compared with a scope of weight 1."""
    continue_from: Begun | None = None
    """What of the answer was delivered already, if this completes one that was cut."""
    prompt_tokens: int | None = None
    """The prompt's size, if a model it was too long for has counted it: this one makes room."""
    shortens: bool = False
    """Whether the caller shortens a prompt that is too long; then no larger model is asked."""

    @property
    def share(self) -> Share:
        """What it counts as where requests wait for slots."""
        return Share(scope=self.scope, weight=self.weight)

    @property
    def prompt_bytes(self) -> int:
        """Size of all messages in UTF-8 bytes, a bound on the work before the first token."""
        return sum(len(message.content.encode()) for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts as the engine reports them; never estimated."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    per_choice: tuple[int, ...] = ()
    """Completion tokens of each answer, where several were drawn."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which engine produced the tokens. Reported by that engine, never by configuration."""

    model: str
    engine: str
    adapter_version: str = BASE_ADAPTER
    adapter_digest: str | None = None
    replica: str | None = None
    degraded: bool = False


@dataclass(slots=True, kw_only=True)
class Chunk:
    """A piece of a streamed answer; never changed once it is made.

    There are as many as there are tokens, and making a frozen one takes three times as long.

    `raw` is the server-sent event it came in, blank line included, so that a gateway can pass it
    on untouched; or several events that came together and differ in nothing but their text. The last
    chunks carry `finish_reason` and `usage`.
    """

    text: str = ""
    reasoning: str = ""
    """What a thinking model writes before its answer; it is no part of the answer's text."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[float, ...] = ()
    index: int = 0
    """Which of several answers this belongs to."""
    raw: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the answers drawn."""

    text: str
    finish_reason: FinishReason
    logprobs: tuple[float, ...] = ()
    reasoning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer: as many choices as were asked for, at least one."""

    choices: tuple[Choice, ...]
    usage: Usage | None
    origin: Origin

    @property
    def text(self) -> str:
        """The answer; several are joined by a blank line."""
        return "\n\n".join(choice.text for choice in self.choices)

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first one ended."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Log-probabilities of the first one's tokens."""
        return self.choices[0].logprobs
