"""llama.cpp as an embedder: the same supervised child, with an embedding model in it."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from mongars.core.errors import InferenceFailed
from mongars.engines.embedder import Embeddings
from mongars.engines.llama_cpp.refusal import refusal_of
from mongars.engines.llama_cpp.supervisor import LlamaCppSupervisor
from mongars.protocol.body import encode, json_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.core.clock import Clock
    from mongars.core.observe import Observer
    from mongars.engines.engine import EngineStatus
    from mongars.engines.llama_cpp.config import LlamaCppConfig


class LlamaCppEmbedder:
    """One embedding model in one child process; see `engines.embedder.Embedder`."""

    def __init__(
        self, config: LlamaCppConfig, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._child = LlamaCppSupervisor(config, clock=clock, observer=observer)

    @property
    def model(self) -> str:
        """The model's name."""
        return self._config.model_name

    @property
    def status(self) -> EngineStatus:
        """State, restarts and process id."""
        return self._child.status

    async def start(self) -> None:
        """Load the model. Raises `InferenceFailed` with the engine's own words if it cannot."""
        await self._child.start()

    async def aclose(self) -> None:
        """Kill the child; nothing of it is left afterwards."""
        await self._child.aclose()

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """One vector of unit length per text; see the port for errors."""
        body = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        session = self._child.session
        try:
            with self._child.waiting(body):
                async with session.post("/v1/embeddings", data=encode(body)) as response:
                    if response.status != HTTPStatus.OK:
                        raise await refusal_of(response)
                    found = json_object(await response.read())
        except (aiohttp.ClientError, OSError) as exc:
            detail = f"The embedding engine broke the connection: {exc}"
            raise InferenceFailed(detail) from exc
        try:
            entries = sorted(found["data"], key=lambda entry: int(entry["index"]))
            vectors = tuple(_unit(entry["embedding"]) for entry in entries)
            tokens = int(found["usage"]["prompt_tokens"])
        except (KeyError, TypeError, ValueError) as exc:
            detail = "The embedding engine's answer does not have the shape of one."
            raise InferenceFailed(detail) from exc
        if len(vectors) != len(texts):
            detail = f"The embedding engine sent {len(vectors)} vectors for {len(texts)} texts."
            raise InferenceFailed(detail)
        return Embeddings(vectors=vectors, prompt_tokens=tokens, model=self.model)


def _unit(vector: Sequence[float]) -> tuple[float, ...]:
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not math.isfinite(length) or length == 0.0:
        detail = "The embedding engine sent a vector without a direction."
        raise InferenceFailed(detail)
    return tuple(value / length for value in vector)
