"""Decodes the responses of `/generate`: a stream of server-sent events, or one JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.errors import InvalidAnswer
from mongars.core.generation import Chunk
from mongars.inference.retry.failures import EmptyAnswer
from mongars.inference.streams.reader import End
from mongars.protocol import headers
from mongars.protocol.body import json_object
from mongars.protocol.event_template import EventTemplate
from mongars.protocol.generate import ERROR_EVENT, META_EVENT, origin_from
from mongars.protocol.openai import (
    error_in,
    finish_reason_from,
    read_chunk,
    reasoning_in,
    usage_from,
)
from mongars.protocol.sse import EventSplitter, EventTooLarge, parse_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mongars.core.generation import Origin, Usage

_KNOWN_EVENTS = frozenset({"message", META_EVENT, ERROR_EVENT})


class SseDecoder:
    """Decodes the server-sent events of a `/generate` response into `Chunk`s, the answer's `Origin` and `End`.

    The event `meta` becomes the `Origin`, and `[DONE]` becomes `End`; events with unknown names are ignored.
    """

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._repeated = EventTemplate()

    def feed(self, data: bytes) -> Iterator[Chunk | Origin | End]:
        """Decode a block of bytes; yields the items that it completes. An incomplete event is kept.

        Raises the error that an event reports, or `InvalidAnswer` for a malformed or too large event. Consecutive
        events that contain only text are combined into one chunk, which saves processing time.
        """
        try:
            blocks = self._splitter.blocks(data)
        except EventTooLarge as exc:
            detail = f"The server sent {exc}."
            raise InvalidAnswer(detail) from exc
        texts: list[str] = []
        raws: list[bytes] = []
        for raw in blocks:
            text = self._repeated.text(raw)
            if text is not None:
                texts.append(text)
                raws.append(raw)
                continue
            if texts:
                yield Chunk(text="".join(texts), raw=b"".join(raws))
                texts, raws = [], []
            item = self._item(raw)
            if item is not None:
                yield item
        if texts:
            yield Chunk(text="".join(texts), raw=b"".join(raws))

    def _item(self, raw: bytes) -> Chunk | Origin | End | None:
        event = parse_event(raw)
        if event is None:
            return None
        if event.is_done:
            return End()
        if event.name == META_EVENT:
            return origin_from(json_object(event.data))
        if event.name not in _KNOWN_EVENTS:
            return None
        chunk = read_chunk(event)
        if chunk.text and chunk == Chunk(text=chunk.text, raw=raw):
            self._repeated.learn(raw, chunk.text)
        return chunk


def origin_of(found: Mapping[str, str], body: Mapping[str, Any]) -> Origin:
    """Model, engine, adapter and replica named in the JSON `body` or, if absent, in the response headers `found`.

    `body`: the decoded body of a non-streaming response, `{}` for a stream. The names in `found` must be lower case.
    Without any, model and engine are `unknown`, and the adapter is none (`baseline`). Raises `InvalidAnswer` for a name
    of an adapter or replica that cannot be sent in an HTTP header.
    """
    from_headers = {
        "adapter_version": found.get(headers.ADAPTER_VERSION),
        "adapter": {"digest": found.get(headers.ADAPTER_DIGEST)},
        "replica": found.get(headers.REPLICA_ID),
    }
    return origin_from({**from_headers, **body})


def whole_chunks(body: dict[str, Any]) -> tuple[Chunk, ...]:
    """The chunks of a non-streaming answer (decoded JSON): text, finish reason and, if reported, token counts.

    Raises the error that the body reports, which is possible with any HTTP status, or `EmptyAnswer` if it has no text.
    """
    if body.get("error"):
        raise error_in(body)
    text = _text_in(body)
    if not text:
        detail = "The answer has no text."
        raise EmptyAnswer(detail)
    message = body.get("message")
    reasoning = reasoning_in(message) if isinstance(message, dict) else ""
    reason = body.get("finish_reason")
    chunks = (
        Chunk(text=text, reasoning=reasoning),
        Chunk(
            finish_reason=finish_reason_from(reason if isinstance(reason, str) else None) or "stop"
        ),
    )
    usage = _usage_in(body)
    return chunks if usage is None else (*chunks, Chunk(usage=usage))


def _text_in(body: dict[str, Any]) -> str:
    """The text of a non-streaming answer: the first of `message.content`, `content` and `response` that is not blank.

    Empty if there is none.
    """
    message = body.get("message")
    nested = message.get("content") if isinstance(message, dict) else None
    for candidate in (nested, body.get("content"), body.get("response")):
        if isinstance(candidate, str) and candidate.strip():
            return candidate
    return ""


def _usage_in(body: dict[str, Any]) -> Usage | None:
    """The token counts in the field `usage` of a non-streaming answer; None if they are missing or invalid."""
    found = body.get("usage")
    try:
        return usage_from(found if isinstance(found, dict) else None)
    except (KeyError, TypeError, ValueError):
        return None
