"""The embedder port: texts to vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.engines.engine import EngineStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Vectors of unit length, one per text in the order of the texts; tokens read for them."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    model: str


class Embedder(Protocol):
    """One embedding model, ready to read."""

    @property
    def model(self) -> str:
        """Its name; vectors of different models are never compared."""
        ...

    @property
    def status(self) -> EngineStatus:
        """Its state now; never blocks."""
        ...

    async def start(self) -> None:
        """Return once it can read. Raises `InferenceFailed` with the reason if it cannot."""
        ...

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """The vectors.

        Raises `ContextLengthExceeded` for a text that does not fit, `NotReady`, `InferenceFailed`.
        """
        ...

    async def aclose(self) -> None:
        """Stop; afterwards nothing of it is left. Safe to call twice."""
        ...
