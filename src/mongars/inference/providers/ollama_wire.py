"""Ollama's lines as the items an `AnswerReader` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.inference.providers.answers import End
from mongars.protocol.ollama import LineReader, origin_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mongars.core.generation import Chunk, Origin


class OllamaDecoder:
    """Names who answers before the first chunk, and says when the answer is complete."""

    def __init__(self, *, answer_id: str, created: int, model: str) -> None:
        self._lines = LineReader(answer_id=answer_id, created=created, model=model)
        self._named = False

    def feed(self, block: bytes) -> Iterator[Chunk | Origin | End]:
        """The items that this block completes. Raises `InferenceFailed` for an error in a line."""
        for chunk in self._lines.feed(block):
            yield from self._name()
            yield chunk
        yield from self._name()
        if self._lines.done:
            yield End()

    def _name(self) -> Iterator[Origin]:
        if not self._named and self._lines.model is not None:
            self._named = True
            yield origin_named(self._lines.model)
