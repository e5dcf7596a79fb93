"""Validation of finished answers against the schema that the request named."""

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
    """Collects the texts of one stream and validates each at its end, unless the token limit cut it."""

    def __init__(self, schema: dict[str, Any], *, stops: bool = False) -> None:
        """`stops`: whether the request has stop texts, which may have cut the answer."""
        self._schema = schema
        self._stops = stops
        self._texts: dict[int, list[str]] = {}

    def take(self, chunk: Chunk) -> None:
        """Take the next chunk.

        Raises `GenerationInterrupted` if it ends an answer that violates the schema, and `InvalidRequest`
        instead if a stop text may have cut that answer.
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
    """The events of `blocks`, unchanged. Raises as `FinishedCheck.take` does, before an event that ends an invalid answer."""
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
