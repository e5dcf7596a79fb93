"""Decodes Ollama's streamed JSON lines into the chunks and end marks that an `AnswerReader` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.inference.streams.reader import End
from mongars.protocol.ollama import LineReader, origin_named
from mongars.protocol.schema.finished import FinishedCheck

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mongars.core.generation import Chunk, Origin


class OllamaDecoder:
    """Decodes the JSON lines of an Ollama answer into one `Origin`, then `Chunk`s, then `End` when it is complete.

    It is the `Decoder` with which an `AnswerReader` reads the body of a `POST /api/chat` response.
    """

    def __init__(
        self, *, answer_id: str, created: int, model: str, schema: dict[str, Any] | None = None
    ) -> None:
        """`answer_id`, `created` (Unix seconds) and `model` are written into the OpenAI event that each chunk contains.

        `model` is used until a line of the answer names one. `schema`: JSON schema that the complete text must match;
        None if the text is not restricted.
        """
        self._check = None if schema is None else FinishedCheck(schema)
        self._lines = LineReader(answer_id=answer_id, created=created, model=model)
        self._origin_sent = False

    def feed(self, block: bytes) -> Iterator[Chunk | Origin | End]:
        """Decode a block of bytes; yields the items that it completes, and keeps an incomplete line for the next block.

        Raises `InferenceFailed` if a line reports an error, `InvalidAnswer` if a line is malformed or too long, and
        `GenerationInterrupted` at the end of a text that violates the schema.
        """
        for chunk in self._lines.feed(block):
            yield from self._origin()
            if self._check is not None:
                self._check.take(chunk)
            yield chunk
        yield from self._origin()
        if self._lines.done:
            yield End()

    def _origin(self) -> Iterator[Origin]:
        if not self._origin_sent and self._lines.model is not None:
            self._origin_sent = True
            yield origin_named(self._lines.model)
