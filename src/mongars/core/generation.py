"""Requests to a model and the answers, independent of any wire format or engine."""

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
"""Why an answer ended. The last three values are reported by upstream servers only."""
PromptCacheScope = Literal["user", "shared"]
"""`user`: an engine reuses cached prompts only among requests with the same `scope`; `shared`: among all."""

DEFAULT_TEMPERATURE = 0.7
DEFAULT_TOP_P = 0.9
"""Sampling defaults of deployments; an operator can change both."""

BASE_ADAPTER = "baseline"
"""The adapter version in answers of the base model without an adapter; `core.adapter_pin` has the rule."""

_CODING = frozenset({"code", "coding", "developer"})


def task_role(task_type: str) -> TaskRole:
    """The role of the model for a task type: `coding` for `code`, `coding` and `developer`, else `general`."""
    return "coding" if task_type.strip().lower() in _CODING else "general"


def confidence(logprobs: Sequence[float]) -> float | None:
    """The exponential of the mean of the tokens' log-probabilities, 0 to 1; None if `logprobs` is empty."""
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters. None means the default of the replica or provider that answers."""

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
    """Sample from that many most likely tokens; 0 or less: from all."""
    min_p: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id of the model and the number that is added to its logit."""
    response_format: dict[str, Any] | None = None
    n: int = 1
    """How many answers to generate."""

    def with_defaults(self, defaults: Sampling) -> Sampling:
        """A copy in which `max_tokens`, `temperature` and `top_p` are taken from `defaults` where they are None."""
        return replace(
            self,
            max_tokens=defaults.max_tokens if self.max_tokens is None else self.max_tokens,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialAnswer:
    """The text received of an answer that was cut, and the model and adapter that generated it."""

    text: str
    model: str
    adapter_version: str
    adapter_digest: str | None = None

    def was_from(self, origin: Origin) -> bool:
        """Whether there is text, and `origin` has the same model and adapter as the one that generated the text.

        Only then can that engine continue the answer exactly.
        """
        return self.text != "" and (self.model, self.adapter_version, self.adapter_digest) == (
            origin.model,
            origin.adapter_version,
            origin.adapter_digest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request to a model: the whole conversation so far, and parameters of the answer."""

    messages: tuple[Message, ...]
    request_id: str
    task_type: str = "general"
    sampling: Sampling = field(default_factory=Sampling)
    session_id: str | None = None
    adapter: str | None = None
    """The adapter that must answer: an alias, a version, or `NAME@DIGEST` (`core.adapter_pin`). None: the active one
    of the role.
    """
    traceparent: str | None = None
    """The W3C trace context of the client's request, passed on unchanged."""
    scope: str | None = None
    """The account of the request. The answer, and the engine's cached prompt, may be reused for requests with the same
    scope. None: for no other request.
    """
    weight: float = 1.0
    """The share of slots for this scope while requests queue, relative to a scope of weight 1."""
    continue_from: PartialAnswer | None = None
    """The part of the answer that was delivered already, if this request continues an answer that was cut."""
    prompt_tokens: int | None = None
    """Tokens of the prompt, if another model has counted them and refused the prompt as too long; else None."""
    shortens: bool = False
    """Whether the caller shortens a prompt that is too long; then no provider with a larger context window is tried."""

    @property
    def share(self) -> Share:
        """The account (`scope`) and weight of this request for a fair queue."""
        return Share(scope=self.scope, weight=self.weight)

    @property
    def prompt_bytes(self) -> int:
        """Size of all message contents in UTF-8 bytes."""
        return sum(len(message.content.encode()) for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of an answer as the engine reported them, not estimated."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    per_choice: tuple[int, ...] = ()
    """Completion tokens of each answer, if there are several; else empty."""

    @property
    def total_tokens(self) -> int:
        """Prompt tokens plus completion tokens."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The model, engine and adapter that generated an answer, as the engine itself reports them.

    `adapter_digest` is None without an adapter; `replica` is None outside of a replica.
    """

    model: str
    engine: str
    adapter_version: str = BASE_ADAPTER
    adapter_digest: str | None = None
    replica: str | None = None
    degraded: bool = False


@dataclass(slots=True, kw_only=True)
class Chunk:
    """A part of a streamed answer, usually one token. Treat it as immutable.

    It is not a frozen class, since there is one per token and making a frozen one takes three times as long.

    `raw` is the server-sent event that contained the chunk, blank line included, so that a gateway can forward it
    unchanged; or several events that arrived together and differ only in their text. The last chunks have
    `finish_reason` and `usage`.
    """

    text: str = ""
    reasoning: str = ""
    """Text that a reasoning model generates before its answer; not part of the answer's text."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[float, ...] = ()
    index: int = 0
    """The index of the answer that the chunk belongs to, if there are several."""
    raw: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the answers generated for a request."""

    text: str
    finish_reason: FinishReason
    logprobs: tuple[float, ...] = ()
    reasoning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The complete response to a request: as many choices as were requested, at least one."""

    choices: tuple[Choice, ...]
    usage: Usage | None
    origin: Origin

    @property
    def text(self) -> str:
        """The text of all choices, joined by blank lines."""
        return "\n\n".join(choice.text for choice in self.choices)

    @property
    def finish_reason(self) -> FinishReason:
        """The finish reason of the first choice."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Log-probabilities of the first choice's tokens; empty if the engine reported none."""
        return self.choices[0].logprobs
