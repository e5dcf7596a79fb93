"""The bytes of a fake replica's responses, in the format of the real protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from mongars.core.generation import Choice, Completion, Origin, Usage
from mongars.protocol import headers
from mongars.protocol.generate import META_EVENT, answer_body, origin_body
from mongars.protocol.openai import chunk_body, usage_chunk_body
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
PROMPT_TOKENS = 7
_ID = "chatcmpl-fake"
_MODEL = "fake-135m"


def tokens(text: str) -> list[str]:
    """Split a text into tokens as the fake servers count them: words, each after the first with the space before it."""
    words = text.split(" ")
    return words[:1] + [f" {word}" for word in words[1:]] if text else []


def origin_headers(origin: Origin) -> dict[str, str]:
    """The response headers about what produced an answer: `x-adapter-version`, `x-adapter-digest` and `x-replica-id`.

    Their values are taken from `origin`; a digest or replica that is None gives an empty value.
    """
    return {
        headers.ADAPTER_VERSION: origin.adapter_version,
        headers.ADAPTER_DIGEST: origin.adapter_digest or "",
        headers.REPLICA_ID: origin.replica or "",
    }


def opening(origin: Origin | None) -> Iterator[bytes]:
    """The stream events before the first token: `meta`, which says what produces the answer, and the role `assistant`.

    `origin` None: without the event `meta`.
    """
    if origin is not None:
        yield encode_event(origin_body(origin), name=META_EVENT)
    yield _chunk({"role": "assistant", "content": ""})


def token_event(token: str, *, logprob: float | None = None) -> bytes:
    """The event of a stream for one token of the answer, with its log-probability; `logprob` None: without one."""
    return _chunk({"content": token}, logprob=logprob)


def reasoning_event(token: str, *, field: str) -> bytes:
    """The event of a stream for one token of the model's reasoning, in the field `field` of the event's `delta`.

    `field` differs between engines: `reasoning_content`, `reasoning` or `thinking`.
    """
    return _chunk({field: token})


def finish_events(text: str) -> Iterator[bytes]:
    """The last events of a stream with the answer `text`, before `[DONE]`: finish reason, then token counts."""
    yield _chunk({}, finish_reason="stop")
    yield encode_event(usage_chunk_body(answer_id=_ID, created=0, model=_MODEL, usage=_usage(text)))


def stream_body(origin: Origin, text: str) -> bytes:
    """The bytes of a correct streamed response with the answer `text`, from the event `meta` to `[DONE]`.

    `origin` is the model and adapter that the event `meta` names.
    """
    said = map(token_event, tokens(text))
    return b"".join((*opening(origin), *said, *finish_events(text), DONE))


def whole_body(origin: Origin, text: str) -> bytes:
    """The body of a response that is not streamed: the answer `text`, produced by `origin`, as one JSON object."""
    completion = Completion(
        choices=(Choice(text=text, finish_reason="stop"),), usage=_usage(text), origin=origin
    )
    return orjson.dumps(answer_body(completion, timings={}))


def _usage(text: str) -> Usage:
    return Usage(prompt_tokens=PROMPT_TOKENS, completion_tokens=len(tokens(text)))


def _chunk(
    delta: dict[str, Any], *, finish_reason: str | None = None, logprob: float | None = None
) -> bytes:
    body = chunk_body(
        answer_id=_ID, created=0, model=_MODEL, delta=delta, finish_reason=finish_reason
    )
    if logprob is not None:
        body["choices"][0]["logprobs"] = {"content": [{"logprob": logprob}]}
    return encode_event(body)
