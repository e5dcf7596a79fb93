"""A deterministic embedder without a model, for tests: texts that share words have similar vectors."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from mongars.core.errors import ContextLengthExceeded, NotReady
from mongars.engines.embedder import Embeddings
from mongars.engines.engine import EngineStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

DIMENSIONS = 64


class FakeEmbedder:
    """An embedder without a model, for tests; texts that share words have similar vectors.

    A vector has 64 numbers: how many words of the text have each hash value, scaled to Euclidean length 1.
    `context_tokens`: how many words a text may have. `model`: the name in the results.
    """

    def __init__(self, *, context_tokens: int = 512, model: str = "fake-embedding") -> None:
        self.model = model
        self._context_tokens = context_tokens
        self.status = EngineStatus(state="stopped")

    async def start(self) -> None:
        """Set the state to `ready`."""
        self.status = EngineStatus(state="ready")

    async def aclose(self) -> None:
        """Set the state to `stopped`."""
        self.status = EngineStatus(state="stopped")

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Convert each text to a vector; one word is one token, and an empty text counts as one word.

        Raises `NotReady` unless the state is `ready`, `ContextLengthExceeded` for a text with more words than the
        `context_tokens` of the constructor.
        """
        if self.status.state != "ready":
            detail = f"The embedder is {self.status.state}."
            raise NotReady(detail, retry_after=1.0)
        words = [text.lower().split() or [""] for text in texts]
        longest = max(map(len, words), default=0)
        if longest > self._context_tokens:
            raise ContextLengthExceeded(
                prompt_tokens=longest, context_tokens=self._context_tokens, param="input"
            )
        return Embeddings(
            vectors=tuple(_vector(each) for each in words),
            prompt_tokens=sum(map(len, words)),
            model=self.model,
        )


def _vector(words: list[str]) -> tuple[float, ...]:
    vector = [0.0] * DIMENSIONS
    for word in words:
        vector[hashlib.sha256(word.encode()).digest()[0] % DIMENSIONS] += 1.0
    length = math.hypot(*vector)
    return tuple(value / length for value in vector)
