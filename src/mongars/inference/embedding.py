"""The interface of embedding providers, and the batches of texts that they embed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mongars.core.deadline import Deadline
    from mongars.inference.provider import Attempts, ProviderName, Route

EMBEDDING_TASK = "embedding"
"""Value of `task_type` in the events of embedding requests."""
PIECE_TEXTS = 128
PIECE_BYTES = 128 * 1024
"""Maximum bytes of text in one piece; a single longer text is a piece of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """A request for the vectors of `texts` by the embedding model `model`.

    `scope`: the account that made the request; None without accounts. `traceparent`: W3C trace context, passed on; None
    without one. `dimensions`: vector length that the client demands; None for that of the model.
    """

    texts: tuple[str, ...]
    model: str
    request_id: str
    scope: str | None = None
    traceparent: str | None = None
    dimensions: int | None = None

    @property
    def size(self) -> int:
        """Total length of the texts in bytes of UTF-8."""
        return sum(len(text.encode()) for text in self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedTexts:
    """The vectors of one piece of a batch (some of its texts), in the order of the texts.

    Each vector is packed as float32, little-endian. `prompt_tokens`: tokens of all texts of the piece. `endpoint`:
    host, port and path of the Ray endpoint that embedded them, or `in-process` for the embedder on this machine.
    """

    vectors: tuple[bytes, ...]
    prompt_tokens: int
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedBatch:
    """The vectors of a whole batch, in the order of its texts, each packed as float32, little-endian.

    `prompt_tokens`: tokens of all texts. A batch is embedded in pieces of at most 128 texts: `route` has the provider
    and endpoint of the last piece; its `attempts` is the most requests that were sent for one piece.
    """

    vectors: tuple[bytes, ...]
    prompt_tokens: int
    model: str
    route: Route


class EmbeddingProvider(Protocol):
    """A component that turns texts into vectors: the Ray endpoints, or an embedder on this machine."""

    @property
    def name(self) -> ProviderName:
        """The provider's name in metrics, logs and response headers, such as `ray_serve`."""
        ...

    @property
    def local(self) -> bool:
        """True for the embedder on this machine, which is used if Ray fails; False for Ray."""
        ...

    async def embed(
        self, batch: TextBatch, deadline: Deadline, attempts: Attempts
    ) -> EmbeddedTexts:
        """The vectors of `batch`, which is one piece (at most 128 texts) of the client's batch.

        `attempts` counts the requests sent. `deadline`: the time by which all vectors must have arrived; cancelling
        the call stops the work. Raises `ModelUnknown` if this provider does not have `batch.model`, another
        `CallerError` if the request is wrong, or a `WorldError` if this provider failed, also because the deadline
        passed; another provider may then be tried.
        """
        ...

    async def run(self) -> None:
        """Run this provider's background work, such as stopping idle processes, until cancelled; may return at once."""
        ...

    async def aclose(self) -> None:
        """Close all connections and engines of this provider; requests in progress then fail. Safe to call twice."""
        ...


def pieces(batch: TextBatch) -> Iterator[TextBatch]:
    """Split a batch, in order, into pieces of at most `PIECE_TEXTS` (128) texts and `PIECE_BYTES` (128 KiB) of UTF-8.

    A longer single text is a piece of its own. A batch without texts has no pieces.
    """
    start, size = 0, 0
    for index, text in enumerate(batch.texts):
        length = len(text.encode())
        full = index - start == PIECE_TEXTS or size + length > PIECE_BYTES
        if full and index > start:
            yield part(batch, start, index)
            start, size = index, 0
        size += length
    if batch.texts:
        yield part(batch, start, len(batch.texts))


def halves(batch: TextBatch) -> tuple[TextBatch, TextBatch]:
    """Split a batch, in order, into two with about the same number of texts; the first is empty for a single text."""
    middle = len(batch.texts) // 2
    return part(batch, 0, middle), part(batch, middle, len(batch.texts))


def part(batch: TextBatch, start: int, end: int) -> TextBatch:
    """A copy of the batch with only `texts[start:end]`."""
    return dataclasses.replace(batch, texts=batch.texts[start:end])
