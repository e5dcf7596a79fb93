"""The port of embedding providers, and the batches of texts that they embed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mongars.core.deadline import Deadline
    from mongars.inference.provider import Attempts, ProviderName, Route

EMBEDDING_TASK = "embedding"
"""The task type in events."""
PIECE_TEXTS = 128
PIECE_BYTES = 128 * 1024
"""Of the texts in one piece; a single text may be longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """Texts to embed with one model, and the account they are embedded for."""

    texts: tuple[str, ...]
    model: str
    request_id: str
    scope: str | None = None
    traceparent: str | None = None
    dimensions: int | None = None
    """The length of vector that the client demands; None for the model's own."""

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(len(text.encode()) for text in self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedTexts:
    """The vectors of one piece in the order of its texts, each as packed float32."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedBatch:
    """The vectors of a batch in the order of its texts, each as packed float32.

    `route` is that of the last piece.
    """

    vectors: tuple[bytes, ...]
    prompt_tokens: int
    model: str
    route: Route


class EmbeddingProvider(Protocol):
    """A source of embeddings."""

    @property
    def name(self) -> ProviderName:
        """Its name in metrics, logs and headers."""
        ...

    @property
    def local(self) -> bool:
        """Whether it stands in for a remote provider."""
        ...

    async def embed(
        self, batch: TextBatch, deadline: Deadline, attempts: Attempts
    ) -> EmbeddedTexts:
        """The vectors of one piece.

        Raises `ModelUnknown` if it does not have the model, another `CallerError` if the request is
        wrong, or a `WorldError` if this provider failed. Cancelling it stops the work.
        """
        ...

    async def run(self) -> None:
        """Background work, until cancelled; may return at once if there is none."""
        ...

    async def aclose(self) -> None:
        """Close connections and engines. Safe to call twice."""
        ...


def pieces(batch: TextBatch) -> Iterator[TextBatch]:
    """The batch in parts of at most `PIECE_TEXTS` texts and `PIECE_BYTES` bytes, in order."""
    start, size = 0, 0
    for index, text in enumerate(batch.texts):
        length = len(text.encode())
        full = index - start == PIECE_TEXTS or size + length > PIECE_BYTES
        if full and index > start:
            yield part(batch, start, index)
            start, size = index, 0
        size += length
    yield part(batch, start, len(batch.texts))


def halves(batch: TextBatch) -> tuple[TextBatch, TextBatch]:
    """The batch in two parts of about as many texts."""
    middle = len(batch.texts) // 2
    return part(batch, 0, middle), part(batch, middle, len(batch.texts))


def part(batch: TextBatch, start: int, end: int) -> TextBatch:
    """The texts from `start` to before `end`."""
    return dataclasses.replace(batch, texts=batch.texts[start:end])
