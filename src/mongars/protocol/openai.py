"""OpenAI's chat protocol (`/v1/chat/completions`): requests, responses, stream events and errors."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

import orjson
from pydantic import Field

from mongars.core.errors import InferenceFailed, InvalidAnswer, MongarsError
from mongars.core.generation import (
    Choice,
    Chunk,
    Completion,
    FinishReason,
    Message,
    Usage,
)
from mongars.protocol.adapter_field import DemandsAdapter
from mongars.protocol.logprobs import entries
from mongars.protocol.messages import ChatMessage, prompt_messages
from mongars.protocol.problems import error_from, read_count
from mongars.protocol.sampling_fields import MAX_TOKENS_LIMIT, SamplingFields
from mongars.protocol.sse import parse_event
from mongars.protocol.wire_model import WireModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mongars.protocol.sse import ServerEvent

REASONING = "reasoning_content"
"""Name of the field with the model's reasoning in messages and deltas that are sent to clients."""
_PLAIN_DELTA = {"role", "content"}
_REASONING_FIELDS = (REASONING, "reasoning", "thinking")
"""All names of the reasoning field: of llama.cpp and DeepSeek, of vLLM and OpenRouter, of Ollama."""


_FINGERPRINT = re.compile(rb'"system_fingerprint":"([\w.:/+-]+)"')
"""Matches the fingerprint in an event's bytes. In generated text the quotes are escaped and do not match."""


class StreamOptions(WireModel):
    """The field `stream_options` of a request; `include_usage` requests the token counts at the stream's end."""

    include_usage: bool = False


class ChatCompletionRequest(SamplingFields, DemandsAdapter):
    """The body of OpenAI's `POST /v1/chat/completions`."""

    model: str = Field(min_length=1)
    messages: list[ChatMessage] = Field(fail_fast=True)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS_LIMIT)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS_LIMIT)
    stream: bool = False
    stream_options: StreamOptions | None = None

    def to_messages(self) -> tuple[Message, ...]:
        """The field `messages` as messages for the model. Raises `PromptMissing` if none of them has text."""
        return prompt_messages(self.messages)


def model_card(name: str, *, created: int) -> dict[str, Any]:
    """The entry of one model in the response of `GET /v1/models`; `created` is in Unix seconds.

    Keys: `id` (the name), `object`, `created` and `owned_by`.
    """
    return {"id": name, "object": "model", "created": created, "owned_by": "mongars"}


@lru_cache(maxsize=64)
def fingerprint_of(model: str) -> str:
    """The value of `system_fingerprint`, derived from the model's name, for answers whose engine reports none."""
    return f"fp_{hashlib.sha256(model.encode()).hexdigest()[:10]}"


def fingerprint_in(raw: bytes) -> str | None:
    """The value of `system_fingerprint` in the bytes of a stream event; None if there is none."""
    found = _FINGERPRINT.search(raw)
    return None if found is None else found[1].decode("ascii")


def usage_body(usage: Usage) -> dict[str, Any]:
    """The token counts as OpenAI's `usage` object.

    Keys: `prompt_tokens`, `completion_tokens`, `total_tokens`, `prompt_tokens_details` (`cached_tokens`) and, if the
    counts of each choice are known, `completion_tokens_per_generation`.
    """
    body: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    if usage.per_choice:
        body["completion_tokens_per_generation"] = list(usage.per_choice)
    return body


def completion_body(
    completion: Completion,
    *,
    answer_id: str,
    created: int,
    logprobs: Mapping[int, list[dict[str, Any]]] | None = None,
    fingerprint: str | None = None,
) -> dict[str, Any]:
    """OpenAI's `chat.completion` object of a non-streaming answer; `created` is in Unix seconds.

    `answer_id`: its field `id`. `logprobs`: for each choice index, the log-probability entries of its tokens in
    OpenAI's format; None if they were not requested. `fingerprint`: the `system_fingerprint` reported by the engine;
    None: derived from the model's name. Without token counts in `completion`, the field `usage` is left out.
    """
    choices = [
        {
            "index": index,
            "message": {**message_body(choice), "refusal": None},
            "finish_reason": choice.finish_reason,
            "logprobs": None
            if logprobs is None
            else {"content": logprobs.get(index, []), "refusal": None},
        }
        for index, choice in enumerate(completion.choices)
    ]
    body: dict[str, Any] = {
        "id": answer_id,
        "object": "chat.completion",
        "created": created,
        "model": completion.origin.model,
        "system_fingerprint": fingerprint or fingerprint_of(completion.origin.model),
        "choices": choices,
    }
    if completion.usage is not None:
        body["usage"] = usage_body(completion.usage)
    return body


def message_body(choice: Choice) -> dict[str, Any]:
    """The object `message` of one choice of a non-streaming answer, in OpenAI's format.

    Keys: `role` (`assistant`), `content` and, if there is any reasoning, `reasoning_content`.
    """
    body = {"role": "assistant", "content": choice.text}
    return {**body, REASONING: choice.reasoning} if choice.reasoning else body


def chunk_body(
    *,
    answer_id: str,
    created: int,
    model: str,
    delta: dict[str, Any],
    finish_reason: str | None = None,
    index: int = 0,
) -> dict[str, Any]:
    """OpenAI's `chat.completion.chunk` object of a stream event with one choice; `created` is in Unix seconds.

    `answer_id`: its field `id`. `delta`: what is new in the message, such as `{"content": "text"}`. `finish_reason`:
    None unless the choice ends with this event. `index`: the number of the choice.
    """
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "system_fingerprint": fingerprint_of(model),
        "choices": [choice],
    }


def usage_chunk_body(*, answer_id: str, created: int, model: str, usage: Usage) -> dict[str, Any]:
    """The last `chat.completion.chunk` object of a stream: it has the token counts and no choices.

    `answer_id`: its field `id`. `created`: Unix seconds.
    """
    body = chunk_body(answer_id=answer_id, created=created, model=model, delta={})
    return {**body, "choices": [], "usage": usage_body(usage)}


def logprob_entries(chunk: Chunk) -> list[dict[str, Any]]:
    """The log-probability entries of a chunk's tokens, in OpenAI's format; empty if the chunk has none.

    They are those of the engine's event if it has any, else built from `chunk.logprobs`.
    """
    if not chunk.logprobs:
        return []
    event = parse_event(chunk.raw)
    choices = orjson.loads(event.data).get("choices") if event is not None else None
    sent = (choices[0].get("logprobs") or {}).get("content") if choices else None
    return list(sent) if sent else entries(chunk.text, chunk.logprobs)


def read_chunk(event: ServerEvent) -> Chunk:
    """Parse an event of a stream in OpenAI's format as a chunk; not for the event `[DONE]`.

    Raises the error that the event reports, or `InvalidAnswer` if the event is not a chunk.
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
    """Convert a `chat.completion.chunk` object to a chunk; `raw`: the bytes of its event.

    Raises `KeyError`, `TypeError`, `AttributeError` or `ValueError` for a malformed object or text of a wrong type.
    Invalid token counts or log-probabilities are ignored; `raw` of the chunk is then empty, so that they are not passed
    on.
    """
    usage: Usage | None = None
    logprobs: tuple[float, ...] = ()
    readable = True
    if body.get("usage") is not None:
        usage, readable = _usage_in(body)
    choices = body.get("choices")
    if not choices:
        return Chunk(usage=usage, raw=raw if readable else b"")
    (choice,) = choices
    delta = choice.get("delta") or {}
    text = delta.get("content") or ""
    if not isinstance(text, str):
        detail = "content is no text"
        raise TypeError(detail)
    if choice.get("logprobs") is not None:
        logprobs, complete = _logprobs_from(choice["logprobs"])
        readable = readable and complete
    return Chunk(
        text=text,
        reasoning="" if delta.keys() <= _PLAIN_DELTA else reasoning_in(delta),
        finish_reason=finish_reason_from(choice.get("finish_reason")),
        usage=usage,
        logprobs=logprobs,
        index=int(choice.get("index") or 0),
        # An event with invalid details is not relayed as it is: without `raw`, a new one is written.
        raw=raw if readable else b"",
    )


def _usage_in(body: dict[str, Any]) -> tuple[Usage | None, bool]:
    """The token counts in the field `usage`, and whether that field is valid.

    Without the field, None and True; with an invalid one, None and False.
    """
    try:
        return usage_from(body.get("usage")), True
    except (KeyError, TypeError, AttributeError, ValueError):
        return None, False


def reasoning_in(message: dict[str, Any]) -> str:
    """The model's reasoning in a decoded message or a stream's `delta`; empty if there is none.

    It is the first text in `reasoning_content`, `reasoning` or `thinking` that is not empty.
    """
    found = (message.get(name) for name in _REASONING_FIELDS)
    return next((text for text in found if isinstance(text, str) and text), "")


def _logprobs_from(logprobs: object) -> tuple[tuple[float, ...], bool]:
    """The log-probabilities of the tokens in OpenAI's decoded `logprobs` object, and whether all entries are valid.

    No log-probabilities and True if there are none; none and False if one of the entries is invalid.
    """
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return (), True
    found = [entry.get("logprob") for entry in content if isinstance(entry, dict)]
    values = tuple(float(value) for value in found if isinstance(value, int | float))
    return (values, True) if len(values) == len(content) else ((), False)


def usage_from(body: dict[str, Any] | None) -> Usage | None:
    """The token counts in a decoded `usage` object of OpenAI's format; None if `body`, that object, is None or empty.

    If it reports more cached tokens than the prompt has, the result has as many as the prompt. Raises `KeyError`,
    `TypeError` or `ValueError` if the object is malformed.
    """
    if not body:
        return None
    details = body.get("prompt_tokens_details") or {}
    prompt_tokens = read_count(body["prompt_tokens"])
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=read_count(body["completion_tokens"]),
        cached_tokens=min(prompt_tokens, read_count(details.get("cached_tokens") or 0)),
        per_choice=tuple(map(read_count, body.get("completion_tokens_per_generation") or ())),
    )


_FINISH_REASONS: dict[str, FinishReason] = {reason: reason for reason in get_args(FinishReason)}


def finish_reason_from(value: str | None) -> FinishReason | None:
    """The finish reason that a server reports, such as `stop` or `length`, as a `FinishReason`.

    None if it reports none, `stop` for a name that is not known here.
    """
    if value is None:
        return None
    return _FINISH_REASONS.get(value, "stop")


def error_in(body: dict[str, Any]) -> MongarsError:
    """The exception for the error in `body`, a decoded response, whose class depends on the error code.

    Both formats are read: OpenAI's nested one and the flat one of `/generate`. `InferenceFailed` without a known code.
    """
    error = body.get("error")
    if isinstance(error, dict):
        code = str(error.get("code") or error.get("type") or "")
        return error_from(code, str(error.get("message", "")), body=error)
    detail = body.get("detail") or body.get("message") or str(error)
    if isinstance(error, str):
        return error_from(error, str(detail), body=body)
    return InferenceFailed(str(detail))
