"""Validation of complete answers against the schema in the request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.errors import GenerationInterrupted, InvalidAnswer, InvalidRequest
from mongars.protocol.openai import read_chunk
from mongars.protocol.schema.validation import violation
from mongars.protocol.sse import EventSplitter, EventTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from mongars.core.generation import Chunk


class FinishedCheck:
    """Collects the text of each answer in a stream, and validates it against a JSON Schema when the answer ends.

    An answer that ends for another reason than `stop`, such as the token limit, is not validated.
    """

    def __init__(self, schema: dict[str, Any], *, stops: bool = False) -> None:
        """`schema`: what the text of each answer must be valid for; `{}` means any JSON object.

        `stops`: whether the request has stop sequences, which may have ended the answer early.
        """
        self._schema = schema
        self._stops = stops
        self._texts: dict[int, list[str]] = {}

    def take(self, chunk: Chunk) -> None:
        """Add the next chunk of the stream.

        Raises `GenerationInterrupted` if it ends an answer whose text violates the schema, or `InvalidRequest` instead
        if a stop sequence may have caused the violation.
        """
        if chunk.text:
            self._texts.setdefault(chunk.index, []).append(chunk.text)
        if chunk.finish_reason != "stop":
            return
        found = violation("".join(self._texts.pop(chunk.index, ())), self._schema)
        if found is not None and self._stops:
            detail = (
                f"stop: a stop text cut the answer before it followed response_format: {found}."
            )
            raise InvalidRequest(detail, param="stop")
        if found is not None:
            detail = f"The answer does not follow response_format: {found}. Try again."
            raise GenerationInterrupted(detail)


async def checked(
    blocks: AsyncIterator[bytes], schema: dict[str, Any], *, stops: bool
) -> AsyncGenerator[bytes, None]:
    """Yield the events of an engine's stream unchanged, while validating each answer in it against `schema`.

    `blocks`: the bytes of the stream, cut anywhere. `stops`: whether the request has stop sequences. Before the event
    that ends an invalid answer, raises `GenerationInterrupted`, or `InvalidRequest` if a stop sequence may be the
    cause. Raises `InvalidAnswer` if an event is malformed or too large, and the error that an event reports.
    """
    splitter, check = EventSplitter(), FinishedCheck(schema, stops=stops)
    try:
        async for block in blocks:
            for event in splitter.feed(block):
                if not event.is_done:
                    check.take(read_chunk(event))
                yield event.raw
    except EventTooLarge as error:
        detail = f"The engine sent {error}."
        raise InvalidAnswer(detail) from error
