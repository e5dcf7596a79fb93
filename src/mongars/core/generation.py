"""Requests to a model and its answers, independent of any wire format or engine."""

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

DEFAULT_TEMPERATURE = 0.7
DEFAULT_TOP_P = 0.9
"""Of deployments; both can be set by the operator."""

BASE_ADAPTER = "baseline"
"""The adapter version of the bare base model; see `core.adapter_pin` for the rule."""

_CODING = frozenset({"code", "coding", "developer"})


def task_role(task_type: str) -> TaskRole:
    """The role of the model for a task: `coding` for tasks about code, else `general`."""
    return "coding" if task_type.strip().lower() in _CODING else "general"


def confidence(logprobs: Sequence[float]) -> float | None:
    """exp(mean token log-probability); None if the engine reported no log-probabilities."""
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters; None: the default of the replica or provider that answers."""

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
    """Sample from the so many most likely tokens; 0 or less: from all."""
    min_p: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token numbers of the model and what is added to their logits."""
    response_format: dict[str, Any] | None = None
    n: int = 1
    """How many answers to generate."""

    def with_defaults(self, defaults: Sampling) -> Sampling:
        """The same, with parameters that are None taken from `defaults`."""
        return replace(
            self,
            max_tokens=defaults.max_tokens if self.max_tokens is None else self.max_tokens,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialAnswer:
    """The text that was received of an answer before it was cut, and the model that generated it."""

    text: str
    model: str
    adapter_version: str
    adapter_digest: str | None = None

    def was_from(self, origin: Origin) -> bool:
        """Whether the same model and adapter generated it; only then can it be continued exactly."""
        return self.text != "" and (self.model, self.adapter_version, self.adapter_digest) == (
            origin.model,
            origin.adapter_version,
            origin.adapter_digest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request to a model: the whole conversation so far, and how to answer it."""

    messages: tuple[Message, ...]
    request_id: str
    task_type: str = "general"
    sampling: Sampling = field(default_factory=Sampling)
    session_id: str | None = None
    adapter: str | None = None
    """The adapter that must answer: an alias, a version, or `NAME@DIGEST` (`core.adapter_pin`). None:
    the active one of its role."""
    traceparent: str | None = None
    """The client's W3C trace context, passed on unchanged."""
    scope: str | None = None
    """The account it belongs to. Its answer, and the engine's cached prompt, may be reused for requests of
    the same scope; None: for no other request."""
    weight: float = 1.0
    """The share of slots for its scope when requests queue, relative to a scope of weight 1."""
    continue_from: PartialAnswer | None = None
    """The part of the answer that was delivered already, if this request continues one that was cut."""
    prompt_tokens: int | None = None
    """Tokens of the prompt, if another model has counted it and refused it as too long."""
    shortens: bool = False
    """Whether the caller shortens a prompt that is too long; then no provider with a larger context
    window is tried."""

    @property
    def share(self) -> Share:
        """Its account and weight in a queue for slots."""
        return Share(scope=self.scope, weight=self.weight)

    @property
    def prompt_bytes(self) -> int:
        """Size of all messages in UTF-8 bytes, a bound on the work before the first token."""
        return sum(len(message.content.encode()) for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts as reported by the engine, not estimated."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    per_choice: tuple[int, ...] = ()
    """Completion tokens of each answer, if there are several."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The engine that generated an answer, as reported by that engine itself."""

    model: str
    engine: str
    adapter_version: str = BASE_ADAPTER
    adapter_digest: str | None = None
    replica: str | None = None
    degraded: bool = False


@dataclass(slots=True, kw_only=True)
class Chunk:
    """A piece of a streamed answer; not changed after it was made.

    It is not a frozen class, since there is one per token and making a frozen one takes three times as long.

    `raw` is the server-sent event it came in, blank line included, so that a gateway can pass it
    on untouched; or several events that came together and differ in nothing but their text. The last
    chunks carry `finish_reason` and `usage`.
    """

    text: str = ""
    reasoning: str = ""
    """What a reasoning model writes before its answer; not part of the answer's text."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[float, ...] = ()
    index: int = 0
    """The index of the answer it belongs to, if there are several."""
    raw: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the generated answers."""

    text: str
    finish_reason: FinishReason
    logprobs: tuple[float, ...] = ()
    reasoning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer: as many choices as were requested, at least one."""

    choices: tuple[Choice, ...]
    usage: Usage | None
    origin: Origin

    @property
    def text(self) -> str:
        """The text of the answer; several choices are joined by a blank line."""
        return "\n\n".join(choice.text for choice in self.choices)

    @property
    def finish_reason(self) -> FinishReason:
        """The finish reason of the first choice."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Log-probabilities of the first choice's tokens."""
        return self.choices[0].logprobs
