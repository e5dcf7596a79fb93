"""The embedder interface: converts texts to vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.engines.engine import EngineStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """The result of `Embedder.embed`: `vectors` has one of Euclidean length 1 per text, in the order of the texts.

    `prompt_tokens` is the number of tokens in all texts together, `model` the name of the embedding model.
    """

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    model: str


class Embedder(Protocol):
    """The interface of a loaded embedding model, which converts texts to vectors.

    The model runs in a child process, a library or a remote server.
    """

    @property
    def model(self) -> str:
        """The name of the embedding model; vectors of different models must not be compared."""
        ...

    @property
    def status(self) -> EngineStatus:
        """The embedder's current state, as last observed; reading it never blocks."""
        ...

    async def start(self) -> None:
        """Load the model and return when texts can be embedded.

        Raises `InferenceFailed` with the reason if the embedder cannot start.
        """
        ...

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Convert each text to a vector of Euclidean length 1, in the order of `texts`.

        Raises:
            ContextLengthExceeded: a text has more tokens than the model's context window.
            NotReady: the embedder is not started, or is restarting.
            InferenceFailed: the model failed.
        """
        ...

    async def aclose(self) -> None:
        """Stop the embedder and free its processes, files and connections. Safe to call twice.

        A running `embed` fails with `InferenceFailed` or `NotReady`.
        """
        ...
