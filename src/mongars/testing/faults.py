"""What a fake replica can do with a request: the list of faults.

Each fault is a frozen object; as JSON it is the same with its `kind`, as `testing.described` reads it.
Times are in seconds, by the fake's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

WORDS = 60
TEXT = " ".join(f"word{n}" for n in range(WORDS - 1)) + " fin."
"""The answer of every healthy fake: sixty words, always the same."""

FOREVER = 3600.0

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Period = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """Can be written as JSON; a misspelt field is an error there."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyResponse(_Described):
    """Answer, with at most one thing going wrong on the way.

    One token is one word. Counts are in tokens: `cut_after=0` cuts before the first one.
    """

    kind: Literal["answer"] = "answer"
    text: str = TEXT
    reasoning: str = ""
    """What it writes before the text, as thinking models do; `token_delay` applies."""
    reasoning_field: Literal["reasoning_content", "reasoning", "thinking"] = "reasoning_content"
    first_delay: Seconds = 0.0
    token_delay: Seconds = 0.0
    whole: bool = False
    """In one JSON object, as deployments did that could not stream."""
    cut_after: Count | None = None
    cut: Literal["close", "abort"] = "close"
    """Whether a cut looks like a regular end of the body, or like a broken connection."""
    stall_after: Count | None = None
    stall_seconds: Seconds = FOREVER
    malformed_after: Count | None = None
    error_after: Count | None = None
    finish: bool = True
    done: bool = True
    end_delay: Seconds = 0.0
    """Between the last event and the end of the body."""
    hold_open: bool = False
    """Keep the connection open after the end and send nothing."""
    keepalives: bool = False
    """Send comments while delaying or stalling."""
    meta: bool = True
    logprob: float | None = None
    block: Annotated[int, Field(ge=1)] | None = None
    """Cut the bytes into blocks of that size, wherever that falls."""
    continues: bool = False
    """Go on after `continue_from`, where the text and the adapter are its own; else begin anew."""
    adapter_version: str | None = None
    """The replica name it reports; the replica's own if None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(_Described):
    """Answer with a status and, by default, the error body of `/generate`."""

    kind: Literal["status"] = "status"
    code: Annotated[int, Field(ge=200, le=599)]
    error: str = ""
    detail: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Body(_Described):
    """Answer 200 with exactly that: something old, something broken."""

    kind: Literal["body"] = "body"
    data: bytes
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DisguisedError(_Described):
    """Answer 200, and name an error in the body: as the earlier monGARS did."""

    kind: Literal["disguised_error"] = "disguised_error"
    error: str = "inference_failed"
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(_Described):
    """Reset the connection before any answer."""

    kind: Literal["reset"] = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence(_Described):
    """Accept the request and send nothing; after so many seconds, reset the connection."""

    kind: Literal["silence"] = "silence"
    seconds: Seconds = FOREVER


@dataclass(frozen=True, slots=True, kw_only=True)
class TrickledHead(_Described):
    """Send status line and headers byte by byte; then a healthy answer."""

    kind: Literal["trickled_head"] = "trickled_head"
    byte_delay: Seconds = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowBody(_Described):
    """Answer in one JSON object whose head comes at once and whose body takes so long."""

    kind: Literal["slow_body"] = "slow_body"
    seconds: Seconds = FOREVER


@dataclass(frozen=True, slots=True, kw_only=True)
class HugeEvent(_Described):
    """After so many tokens, one whose event has so many MiB; a whole answer has that size."""

    kind: Literal["huge_event"] = "huge_event"
    after: Count = 0
    mib: Annotated[int, Field(ge=1, le=4096)] = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongLength(_Described):
    """Announce a body that is `by` bytes longer (or shorter) than the one that is sent."""

    kind: Literal["wrong_length"] = "wrong_length"
    by: int
    whole: bool = False
    hold_open: bool = False
    """Keep the connection open afterwards, so that a client that waits for more waits forever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayAnswer(_Described):
    """Answer, and a moment later send a second response on the same connection without a request."""

    kind: Literal["stray_answer"] = "stray_answer"
    text: str = "This is somebody else's answer."


@dataclass(frozen=True, slots=True, kw_only=True)
class NoContinuation(_Described):
    """Refuse every request that would go on after `continue_from`."""

    kind: Literal["no_continuation"] = "no_continuation"
    code: Annotated[int, Field(ge=400, le=599)] = 400
    error: str = "invalid_request"
    detail: str = "prefill is not supported"
    otherwise: Fault = field(default_factory=FaultyResponse)
    """What the other requests meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseContinuation(_Described):
    """Claim to continue the response where it was cut, and send another text.

    With an adapter version of its own it can be found out. One that claims the very model and adapter
    that began the answer cannot be distinguished from a correct one.
    """

    kind: Literal["false_continuation"] = "false_continuation"
    text: str = "Something else."
    adapter_version: str = "another"
    otherwise: Fault = field(default_factory=FaultyResponse)
    """What the other requests meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flapping(_Described):
    """Up for a while, then down for a while, and so on, from the moment it was ordered."""

    kind: Literal["flapping"] = "flapping"
    up: Period
    down: Period
    begins: Literal["up", "down"] = "up"
    when_up: Fault = field(default_factory=FaultyResponse)
    when_down: Fault = field(default_factory=lambda: Status(code=503, error="overloaded"))


@dataclass(frozen=True, slots=True, kw_only=True)
class InTurn(_Described):
    """One after the other, one for each request, and again from the first."""

    kind: Literal["in_turn"] = "in_turn"
    faults: Annotated[tuple[Fault, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """No fault: answer with the words of the question, like the fake engine (Ollama's fake)."""

    token_delay: float = 0.0
    context_tokens: int = 4096
    """The context size where the request names none."""
    parallel: int = 4


Fault = Annotated[
    FaultyResponse
    | Status
    | Body
    | DisguisedError
    | Reset
    | Silence
    | TrickledHead
    | SlowBody
    | HugeEvent
    | WrongLength
    | StrayAnswer
    | NoContinuation
    | FalseContinuation
    | Flapping
    | InTurn,
    Field(discriminator="kind"),
]
