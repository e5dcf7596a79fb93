"""The faults that a fake replica can inject into its response to a request.

Each fault is a frozen dataclass; `testing.described` converts it to and from JSON with the same fields.
Times are in seconds, by the fake's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

WORDS = 60
TEXT = " ".join(f"word{n}" for n in range(WORDS - 1)) + " fin."
"""The default answer of the fakes: always the same sixty words."""

FOREVER = 3600.0

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Period = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """Base of the faults that can be read from JSON, where an unknown field is an error."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyResponse(_Described):
    """Send the answer `text`; by default it is correct, and each field adds a fault or a delay (in seconds).

    One token is one word. These fields are numbers of tokens sent before the fault (None: no such fault): `cut_after`
    ends the response, `stall_after` waits `stall_seconds` (default an hour) and goes on, `malformed_after` sends one
    event with invalid JSON in place of a token, `error_after` sends an error event and ends. `finish`, `done` and
    `meta` False leave out the events with the finish reason and token counts, with `[DONE]`, and with model and
    adapter.
    """

    kind: Literal["answer"] = "answer"
    text: str = TEXT
    reasoning: str = ""
    """Reasoning that is sent before the text, as thinking models do; `token_delay` applies to its tokens."""
    reasoning_field: Literal["reasoning_content", "reasoning", "thinking"] = "reasoning_content"
    first_delay: Seconds = 0.0
    token_delay: Seconds = 0.0
    whole: bool = False
    """Respond with one JSON object even to a request for a stream, as earlier deployments did."""
    cut_after: Count | None = None
    cut: Literal["close", "abort"] = "close"
    """How `cut_after` ends the response: `close` ends the body regularly, `abort` resets the connection."""
    stall_after: Count | None = None
    stall_seconds: Seconds = FOREVER
    malformed_after: Count | None = None
    error_after: Count | None = None
    finish: bool = True
    done: bool = True
    end_delay: Seconds = 0.0
    """Seconds between the last event and the end of the body."""
    hold_open: bool = False
    """Do not end the body after the last event: keep the connection open and send nothing."""
    keepalives: bool = False
    """Send comments of server-sent events during `first_delay` and while stalling."""
    meta: bool = True
    logprob: float | None = None
    block: Annotated[int, Field(ge=1)] | None = None
    """Send the bytes in blocks of this many bytes, regardless of the boundaries of events; None: whole events."""
    continues: bool = False
    """Continue the answer in the request's `continue_from` if text and adapter match; else start from the beginning."""
    adapter_version: str | None = None
    """The adapter version that the response reports; None for the replica's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(_Described):
    """Respond with the status `code`, the JSON `body`, and `headers` in addition to the usual ones.

    `body` None: the error body of `/generate` with the code `error` and the text `detail`, or HTML if `error` is empty.
    """

    kind: Literal["status"] = "status"
    code: Annotated[int, Field(ge=200, le=599)]
    error: str = ""
    detail: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Body(_Described):
    """Respond with 200 and exactly the bytes `data`, for example an outdated or malformed body.

    `media_type` is the response's media type.
    """

    kind: Literal["body"] = "body"
    data: bytes
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DisguisedError(_Described):
    """Respond with 200 and a JSON body that reports an error with the code `error` and the text `detail`.

    Earlier versions of monGARS did so.
    """

    kind: Literal["disguised_error"] = "disguised_error"
    error: str = "inference_failed"
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(_Described):
    """Reset the connection before any byte of a response."""

    kind: Literal["reset"] = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence(_Described):
    """Accept the request and send nothing; reset the connection after `seconds`, by default an hour."""

    kind: Literal["silence"] = "silence"
    seconds: Seconds = FOREVER


@dataclass(frozen=True, slots=True, kw_only=True)
class TrickledHead(_Described):
    """Send status line and headers byte by byte, `byte_delay` seconds apart; then a correct body."""

    kind: Literal["trickled_head"] = "trickled_head"
    byte_delay: Seconds = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowBody(_Described):
    """Respond with one JSON object, even to a request for a stream: the headers at once, the body over `seconds`.

    The body is sent in 20 pieces at equal intervals; `seconds` is an hour by default.
    """

    kind: Literal["slow_body"] = "slow_body"
    seconds: Seconds = FOREVER


@dataclass(frozen=True, slots=True, kw_only=True)
class HugeEvent(_Described):
    """Send a correct stream with one additional event of `mib` MiB after `after` tokens.

    A response that is not streamed has an answer of `mib` MiB instead.
    """

    kind: Literal["huge_event"] = "huge_event"
    after: Count = 0
    mib: Annotated[int, Field(ge=1, le=4096)] = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongLength(_Described):
    """Send a `Content-Length` that is `by` bytes more than the body's length.

    It is less if `by` is negative, but at least 0. `whole`: respond with one JSON object even to a request for a
    stream.
    """

    kind: Literal["wrong_length"] = "wrong_length"
    by: int
    whole: bool = False
    hold_open: bool = False
    """Keep the connection open after the body instead of closing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayAnswer(_Described):
    """Send a correct response, and 0.05 s later a second one, with the answer `text`, that belongs to no request.

    Both are sent on the same connection.
    """

    kind: Literal["stray_answer"] = "stray_answer"
    text: str = "This is somebody else's answer."


@dataclass(frozen=True, slots=True, kw_only=True)
class NoContinuation(_Described):
    """Refuse requests that have a `continue_from` (a broken answer to continue) with the status `code`.

    The error's code is `error` and its text `detail`. All other requests get the fault `otherwise`.
    """

    kind: Literal["no_continuation"] = "no_continuation"
    code: Annotated[int, Field(ge=400, le=599)] = 400
    error: str = "invalid_request"
    detail: str = "prefill is not supported"
    otherwise: Fault = field(default_factory=FaultyResponse)
    """The fault of requests without `continue_from`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseContinuation(_Described):
    """Claim, in the headers, to continue the broken answer in the request's `continue_from`, but send `text` instead.

    A client can detect this by the different `adapter_version`. If that is the version that began the answer, the
    response cannot be distinguished from a correct one. Requests without `continue_from` get the fault `otherwise`.
    """

    kind: Literal["false_continuation"] = "false_continuation"
    text: str = "Something else."
    adapter_version: str = "another"
    otherwise: Fault = field(default_factory=FaultyResponse)
    """The fault of requests without `continue_from`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flapping(_Described):
    """Alternate between the faults `when_up` for `up` seconds and `when_down` for `down` seconds.

    `begins` names which of them comes first. The time starts when the fault is set as `always`; in a queue of faults,
    the first of them applies.
    """

    kind: Literal["flapping"] = "flapping"
    up: Period
    down: Period
    begins: Literal["up", "down"] = "up"
    when_up: Fault = field(default_factory=FaultyResponse)
    when_down: Fault = field(default_factory=lambda: Status(code=503, error="overloaded"))


@dataclass(frozen=True, slots=True, kw_only=True)
class InTurn(_Described):
    """Apply the faults in order, one for each request, and then again from the first.

    The count starts when the fault is set as `always`; in a queue of faults, the first one applies.
    """

    kind: Literal["in_turn"] = "in_turn"
    faults: Annotated[tuple[Fault, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """No fault: stream a text that repeats the request's last message. For the fake Ollama server only.

    At most `parallel` such responses are sent at once (a server keeps the number of its first `Echo`); further
    requests wait. `token_delay` is the seconds before each token.
    """

    token_delay: float = 0.0
    context_tokens: int = 4096
    """The context size in tokens if the request has no `num_ctx`."""
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
