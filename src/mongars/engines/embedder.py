"""The embedder port: texts to vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.engines.engine import EngineStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Vectors of unit length, one per text in the order of the texts, and the number of tokens read."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    model: str


class Embedder(Protocol):
    """One embedding model."""

    @property
    def model(self) -> str:
        """The name of the model; vectors of different models cannot be compared."""
        ...

    @property
    def status(self) -> EngineStatus:
        """Its current state; never blocks."""
        ...

    async def start(self) -> None:
        """Return once it can embed texts. Raises `InferenceFailed` with the reason if it cannot."""
        ...

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embed the texts.

        Raises `ContextLengthExceeded` for a text that does not fit, `NotReady`, `InferenceFailed`.
        """
        ...

    async def aclose(self) -> None:
        """Stop, and free every process, file and connection. Safe to call twice."""
        ...
