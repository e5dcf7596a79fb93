"""Ollama's lines as the items an `AnswerReader` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.inference.streams.reader import End
from mongars.protocol.ollama import LineReader, origin_named
from mongars.protocol.schema.finished import FinishedCheck

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mongars.core.generation import Chunk, Origin


class OllamaDecoder:
    """Names who answers before the first chunk, and says when the answer is complete."""

    def __init__(
        self, *, answer_id: str, created: int, model: str, schema: dict[str, Any] | None = None
    ) -> None:
        """`schema`: what the finished text must follow."""
        self._check = None if schema is None else FinishedCheck(schema)
        self._lines = LineReader(answer_id=answer_id, created=created, model=model)
        self._named = False

    def feed(self, block: bytes) -> Iterator[Chunk | Origin | End]:
        """The items that this block completes. Raises `InferenceFailed` for an error in a line.

        `GenerationInterrupted` at the end of a text that violates the schema.
        """
        for chunk in self._lines.feed(block):
            yield from self._name()
            if self._check is not None:
                self._check.take(chunk)
            yield chunk
        yield from self._name()
        if self._lines.done:
            yield End()

    def _name(self) -> Iterator[Origin]:
        if not self._named and self._lines.model is not None:
            self._named = True
            yield origin_named(self._lines.model)
