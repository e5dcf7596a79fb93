"""From bytes to items: the server-sent events of `/generate`, and its answers in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.errors import InvalidAnswer
from mongars.core.generation import Chunk
from mongars.inference.failures import EmptyAnswer
from mongars.inference.providers.answers import End
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
    """Reads the events of `/generate`, or of an engine that speaks the same dialect."""

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._repeated = EventTemplate()

    def feed(self, data: bytes) -> Iterator[Chunk | Origin | End]:
        """The items that these bytes complete. Raises the error an event carries.

        Neighbouring events that hold nothing but text become one chunk: what arrives together costs
        once what a chunk costs.
        """
        try:
            blocks = self._splitter.blocks(data)
        except EventTooLarge as exc:
            detail = f"The peer sent {exc}."
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
    """Who answers, by the body; what it leaves out, by the headers."""
    told = {
        "adapter_version": found.get(headers.ADAPTER_VERSION),
        "adapter": {"digest": found.get(headers.ADAPTER_DIGEST)},
        "replica": found.get(headers.REPLICA_ID),
    }
    return origin_from({**told, **body})


def whole_chunks(body: dict[str, Any]) -> tuple[Chunk, ...]:
    """The chunks of an answer in one piece.

    Raises the error it carries, whatever its status said, or `EmptyAnswer`.
    """
    if body.get("error"):
        raise error_in(body)
    text = _text_in(body)
    if not text:
        detail = "The answer holds no text."
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
    """The published places for the text, in the published order."""
    message = body.get("message")
    nested = message.get("content") if isinstance(message, dict) else None
    for candidate in (nested, body.get("content"), body.get("response")):
        if isinstance(candidate, str) and candidate.strip():
            return candidate
    return ""


def _usage_in(body: dict[str, Any]) -> Usage | None:
    """The counts, if the engine reported them; older engines sent only a part."""
    found = body.get("usage")
    try:
        return usage_from(found if isinstance(found, dict) else None)
    except (KeyError, TypeError, ValueError):
        return None
