"""The OpenAI chat dialect: requests read leniently, chunks written and read exactly."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mongars.core.errors import InferenceFailed, InvalidAnswer, MongarsError, PromptMissing
from mongars.core.generation import (
    Chunk,
    Completion,
    FinishReason,
    GenerationRequest,
    Message,
    Origin,
    Role,
    Sampling,
    Usage,
)
from mongars.protocol.problems import error_from
from mongars.protocol.sse import parse_event

if TYPE_CHECKING:
    from mongars.protocol.sse import ServerEvent

MAX_TOKENS_LIMIT = 1_000_000
DEEPEST_SCHEMA = 64
MOST_REPEATS = 2000
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_BOUND = re.compile(r"(\d+)\}")


class TextPart(BaseModel):
    """One part of a multi-part message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message as OpenAI clients send it."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    def to_message(self) -> Message:
        """Our own form: `developer` is `system`, text parts are joined, no content is empty."""
        role: Role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, list):
            return Message(role=role, content="".join(part.text for part in self.content))
        return Message(role=role, content=self.content or "")


class StreamOptions(BaseModel):
    """What a streaming client asks for besides the text."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class SamplingFields(BaseModel):
    """The sampling parameters `/generate` and the OpenAI dialect share; unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore")

    max_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS_LIMIT)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    response_format: dict[str, Any] | None = None

    @field_validator("response_format")
    @classmethod
    def _shallow(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and _deeper_than(value, DEEPEST_SCHEMA):
            message = f"is nested deeper than {DEEPEST_SCHEMA} levels"
            raise ValueError(message)
        if value is not None and _repeats(value) > MOST_REPEATS:
            message = f"asks for more than {MOST_REPEATS} repetitions"
            raise ValueError(message)
        return value

    def to_sampling(self, *, max_tokens: int | None = None) -> Sampling:
        """Our own form; `max_tokens` 0 means unset, as some clients send it."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=(max_tokens or self.max_tokens) or None,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=tuple(entry for entry in stop if entry),
            seed=self.seed,
            logprobs=bool(self.logprobs),
            top_logprobs=self.top_logprobs,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            response_format=self.response_format,
        )


class ChatCompletionRequest(SamplingFields):
    """`POST /v1/chat/completions`."""

    model: str = ""
    messages: list[ChatMessage]
    max_completion_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS_LIMIT)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=1)
    user: str | None = None

    def to_generation(
        self, *, request_id: str, session_id: str | None, traceparent: str | None
    ) -> GenerationRequest:
        """Our own form. Raises `PromptMissing` when there is nothing to answer."""
        messages = tuple(message.to_message() for message in self.messages)
        return GenerationRequest(
            messages=checked_messages(messages),
            request_id=request_id,
            sampling=self.to_sampling(max_tokens=self.max_completion_tokens),
            session_id=session_id,
            traceparent=traceparent,
        )


def _deeper_than(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(part, levels - 1) for part in inner)


def _repeats(value: object) -> int:
    """The most repetitions any one part of a schema asks for.

    Engines unfold repetitions into grammar rules: nested ones multiply, and a hundred bytes of
    pattern can take all memory of the engine that reads them.
    """
    if isinstance(value, list):
        return max(map(_repeats, value), default=0)
    if not isinstance(value, dict):
        return 0
    found = [_repeats(part) for part in value.values()]
    found += [value[key] for key in _COUNTS if isinstance(value.get(key), int)]
    if isinstance(pattern := value.get("pattern"), str):
        bounds = [int(number) for number in _BOUND.findall(pattern)]
        found.append(math.prod(max(1, bound) for bound in bounds))
    return max(found, default=0)


def checked_messages(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, if any of them says anything; else `PromptMissing`."""
    if not any(message.content.strip() for message in messages if message.role != "system"):
        detail = "The request holds no message with text to answer."
        raise PromptMissing(detail)
    return messages


def usage_body(usage: Usage) -> dict[str, Any]:
    """Usage in OpenAI's form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def completion_body(
    completion: Completion,
    *,
    answer_id: str,
    created: int,
    logprobs: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A whole `chat.completion` object; `logprobs` are the entries of `logprob_entries`."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": completion.text},
        "finish_reason": completion.finish_reason,
        "logprobs": None if logprobs is None else {"content": logprobs},
    }
    body: dict[str, Any] = {
        "id": answer_id,
        "object": "chat.completion",
        "created": created,
        "model": completion.origin.model,
        "choices": [choice],
    }
    if completion.usage is not None:
        body["usage"] = usage_body(completion.usage)
    return body


def chunk_body(
    *,
    answer_id: str,
    created: int,
    model: str,
    delta: dict[str, Any],
    finish_reason: str | None = None,
) -> dict[str, Any]:
    """One `chat.completion.chunk` object."""
    return {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}],
    }


def usage_chunk_body(*, answer_id: str, created: int, model: str, usage: Usage) -> dict[str, Any]:
    """The last chunk, which has no choice and carries the usage."""
    return {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [],
        "usage": usage_body(usage),
    }


def logprob_entries(chunk: Chunk) -> list[dict[str, Any]]:
    """Log-probability entries of a chunk, token by token; the engine's own where it sent them."""
    if not chunk.logprobs:
        return []
    event = parse_event(chunk.raw)
    choices = orjson.loads(event.data).get("choices") if event is not None else None
    sent = (choices[0].get("logprobs") or {}).get("content") if choices else None
    if sent:
        return list(sent)
    return [
        {"token": chunk.text, "logprob": value, "bytes": None, "top_logprobs": []}
        for value in chunk.logprobs
    ]


def read_chunk(event: ServerEvent) -> Chunk:
    """Read one streamed event.

    Raises the error the event carries, or `InvalidAnswer` when it is no chunk at all.
    """
    try:
        body = orjson.loads(event.data)
    except orjson.JSONDecodeError as exc:
        detail = "A streamed event is not JSON."
        raise InvalidAnswer(detail) from exc
    if not isinstance(body, dict):
        detail = "A streamed event is not a JSON object."
        raise InvalidAnswer(detail)
    if event.name == "error" or body.get("error"):
        raise error_in(body)
    try:
        return _chunk_from(body, event.raw)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as exc:
        detail = "A streamed event does not have the shape of a completion chunk."
        raise InvalidAnswer(detail) from exc


def _chunk_from(body: dict[str, Any], raw: bytes) -> Chunk:
    usage = usage_from(body.get("usage"))
    if not body["choices"]:
        return Chunk(usage=usage, raw=raw)
    choice = body["choices"][0]
    return Chunk(
        text=choice["delta"].get("content") or "",
        finish_reason=finish_reason_from(choice.get("finish_reason")),
        usage=usage,
        logprobs=_logprobs_from(choice.get("logprobs")),
        raw=raw,
    )


def _logprobs_from(logprobs: dict[str, Any] | None) -> tuple[float, ...]:
    if not logprobs:
        return ()
    return tuple(float(entry["logprob"]) for entry in logprobs.get("content") or ())


def usage_from(body: dict[str, Any] | None) -> Usage | None:
    """Usage from its OpenAI form; None when absent."""
    if not body:
        return None
    details = body.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(body["prompt_tokens"]),
        completion_tokens=int(body["completion_tokens"]),
        cached_tokens=int(details.get("cached_tokens") or 0),
    )


def finish_reason_from(value: str | None) -> FinishReason | None:
    """Our finish reason; anything but a cut at the token limit is a plain stop."""
    if value is None:
        return None
    return "length" if value == "length" else "stop"


def error_in(body: dict[str, Any]) -> MongarsError:
    """The error a body carries, in OpenAI's nested form or in the flat one of `/generate`."""
    error = body.get("error")
    if isinstance(error, dict):
        code = str(error.get("code") or error.get("type") or "")
        return error_from(code, str(error.get("message", "")), numbers=error)
    detail = body.get("detail") or body.get("message") or str(error)
    if isinstance(error, str):
        return error_from(error, str(detail), numbers=body)
    return InferenceFailed(str(detail))


class Fold:
    """Folds the chunks of a stream into the whole answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._logprobs: list[float] = []
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        self._texts.append(chunk.text)
        self._logprobs.extend(chunk.logprobs)
        self._finish_reason = chunk.finish_reason or self._finish_reason
        self._usage = chunk.usage or self._usage

    @property
    def text(self) -> str:
        """What has been said so far."""
        return "".join(self._texts)

    @property
    def usage(self) -> Usage | None:
        """The counts, once the engine has sent them."""
        return self._usage

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it has not."""
        return self._finish_reason

    def completion(self, origin: Origin) -> Completion:
        """The whole answer. Raises `InvalidAnswer` if the stream never said that it finished."""
        if self._finish_reason is None:
            detail = "The answer ended without a finish reason."
            raise InvalidAnswer(detail)
        return Completion(
            text=self.text,
            finish_reason=self._finish_reason,
            usage=self._usage,
            origin=origin,
            logprobs=tuple(self._logprobs),
        )
