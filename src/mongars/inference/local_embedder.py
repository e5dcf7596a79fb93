"""The local embedding provider: an embedder in a child process, used when Ray fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mongars.core.errors import DeadlineExceeded, ModelUnknown
from mongars.engines.admission import Admission
from mongars.inference.embedding import EmbeddedTexts
from mongars.inference.start_on_demand import IDLE_SECONDS, StartOnDemand
from mongars.protocol.embeddings import pack

if TYPE_CHECKING:
    from mongars.core.deadline import Deadline
    from mongars.engines.embedder import Embedder
    from mongars.inference.config import InferenceConfig
    from mongars.inference.embedding import TextBatch
    from mongars.inference.provider import Attempts, ProviderName

ENDPOINT = "in-process"
WAITING = 16
"""Maximum number of requests that wait for the embedder."""


class LocalEmbedder:
    """The embedding provider with an embedder process on this machine, started when needed and stopped when idle.

    It embeds one batch at a time; `waiting`: maximum number of others that wait, beyond which `Overloaded` is raised.
    `idle_seconds`: seconds without requests after which the process is stopped.
    """

    name: ProviderName = "embedded"
    local = True

    def __init__(
        self,
        embedder: Embedder,
        config: InferenceConfig,
        *,
        waiting: int = WAITING,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._embedder = embedder
        self._config = config
        self._admission = Admission(slots=1, max_waiting=waiting)
        self._on_demand = StartOnDemand(self._stop_unused, idle_seconds=idle_seconds)

    async def embed(
        self, batch: TextBatch, deadline: Deadline, attempts: Attempts
    ) -> EmbeddedTexts:
        """The vectors of `batch`, which is one piece (at most 128 texts) of the client's batch.

        `attempts` counts the request. Raises `ModelUnknown` if the embedder has another model, `Overloaded` if the
        queue is full or too long for the deadline, `DeadlineExceeded` if the deadline passes, and
        `ContextLengthExceeded` if a text is too long for the model.
        """
        if batch.model != self._embedder.model:
            detail = f"The local embedding model is {self._embedder.model!r}."
            raise ModelUnknown(detail, param="model")
        async with self._admission.slot(deadline, self._config.share(batch.scope)):
            attempts.add()
            try:
                with attempts.waiting():
                    async with asyncio.timeout(deadline.remaining()):
                        await self._on_demand.ready(self._embedder)
                        found = await self._embedder.embed(batch.texts)
            except TimeoutError as exc:
                detail = "The deadline passed before the embeddings were complete."
                raise DeadlineExceeded(detail) from exc
            finally:
                self._on_demand.record_use()
        return EmbeddedTexts(
            vectors=tuple(map(pack, found.vectors)),
            prompt_tokens=found.prompt_tokens,
            endpoint=ENDPOINT,
        )

    async def run(self) -> None:
        """Start the embedder when a request needs it and stop it when idle, until cancelled."""
        await self._on_demand.run()

    async def aclose(self) -> None:
        """Stop the embedder process, if it runs. Safe to call twice."""
        await self._embedder.aclose()

    async def _stop_unused(self) -> None:
        if not self._admission.active:
            await self._embedder.aclose()
