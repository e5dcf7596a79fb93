"""Embeds texts with one model, by Ray Serve or, if it fails, by an embedder on this machine.

A batch is sent in pieces, one after the other, so that a failure costs one piece and other requests are
served between them. All vectors of a response are from the model that the request names: a provider
with another model raises `ModelUnknown`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from mongars.core.errors import (
    AllProvidersFailed,
    InferenceFailed,
    InvalidAnswer,
    InvalidRequest,
    ModelUnknown,
    MongarsError,
    WorldError,
)
from mongars.inference.background_work import BackgroundWork
from mongars.inference.embedding import EMBEDDING_TASK, EmbeddedBatch, pieces
from mongars.inference.events import EmbeddingsEnded, Outcome
from mongars.inference.provider import Attempts, Route
from mongars.inference.request_report import RequestReport
from mongars.protocol.embeddings import FLOAT_BYTES, check_dimensions

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.observe import Observer
    from mongars.inference.embedding import EmbeddedTexts, EmbeddingProvider, TextBatch
    from mongars.inference.events import FallbackReason


class EmbeddingService:
    """Embeds each batch of texts with the first provider that can, in order of preference.

    Use it as an async context manager, once per process: while entered, the background work of the providers runs;
    leaving closes the providers.
    """

    def __init__(
        self,
        providers: tuple[EmbeddingProvider, ...],
        *,
        clock: Clock,
        observer: Observer,
        cure: str = "",
    ) -> None:
        """`providers`: in order of preference. `observer` receives the events.

        `cure`: text on what an operator can do if all of them fail, appended to the message of `AllProvidersFailed`.
        """
        self._providers = providers
        self._cure = cure
        self._clock = clock
        self._observer = observer
        self._work = BackgroundWork(providers, clock=clock, observer=observer)

    async def __aenter__(self) -> Self:
        await self._work.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._work.__aexit__()

    async def embed(self, batch: TextBatch, deadline: Deadline) -> EmbeddedBatch:
        """The vectors of all texts of the batch, which are sent in pieces, one after the other.

        All pieces together must be complete by `deadline`. Raises `ModelUnknown` if no provider has the model, another
        `CallerError` if the request is wrong (no texts, or other `dimensions` than the model's), or
        `AllProvidersFailed`, which contains the error of each provider tried, also if the deadline passes.
        """
        call = _BatchCall(
            self._providers, batch, deadline, observer=self._observer, cure=self._cure
        )
        return await call.run()


class _BatchCall:
    """Embeds one batch, piece by piece; a provider that has failed for one piece is not used for the following ones."""

    def __init__(
        self,
        providers: tuple[EmbeddingProvider, ...],
        batch: TextBatch,
        deadline: Deadline,
        *,
        observer: Observer,
        cure: str,
    ) -> None:
        self._cure = cure
        self._left = list(providers)
        self._batch = batch
        self._deadline = deadline
        self._observer = observer
        self._clock = deadline.clock
        self._attempts = Attempts(self._clock)
        """Those of the present piece."""
        self._most_attempts = 0
        self._waited = 0.0
        self._report = RequestReport(
            observer, self._clock, request_id=batch.request_id, task_type=EMBEDDING_TASK
        )
        self._causes: list[tuple[str, WorldError]] = []
        self._without_model: list[ModelUnknown] = []
        self._reason: FallbackReason | None = None
        self._vectors: list[bytes] = []
        self._tokens = 0
        self._route: Route | None = None

    async def run(self) -> EmbeddedBatch:
        """Embed all pieces in order, and return their vectors.

        Emits one event at the end if the batch was embedded, cancelled or failed with `AllProvidersFailed`; none if the
        request itself was wrong. Raises a `CallerError` in that case, `ModelUnknown` if no provider has the model, and
        `AllProvidersFailed` if none succeeded before the deadline.
        """
        try:
            for piece in pieces(self._batch):
                self._add(await self._embed(piece))
        except AllProvidersFailed as error:
            self._report.unanswered(error)
            raise
        except asyncio.CancelledError:
            self._report_end("cancelled")
            raise
        if self._route is None:
            detail = "There are no texts to embed."
            raise InvalidRequest(detail)
        self._report_end("success" if self._reason is None else "fallback")
        return EmbeddedBatch(
            vectors=tuple(self._vectors),
            prompt_tokens=self._tokens,
            model=self._batch.model,
            route=self._route,
        )

    async def _embed(self, piece: TextBatch) -> EmbeddedTexts:
        """The vectors of `piece` from the first remaining provider that succeeds.

        A provider that fails or lacks the model is removed from those that remain. Raises `ModelUnknown` if all of them
        lacked the model, `AllProvidersFailed` if none is left or the deadline has passed, or another `CallerError` at
        once.
        """
        self._begin_piece()
        while self._left and not (self._causes and self._deadline.expired()):
            provider = self._left[0]
            try:
                found = await provider.embed(piece, self._deadline, self._attempts)
            except ModelUnknown as error:
                self._without_model.append(error)
                self._give_up(provider, error)
            except WorldError as error:
                self._causes.append((provider.name, error))
                self._give_up(provider, error)
            else:
                self._route = self._routed(provider, found)
                return found
        raise self._failure()

    def _add(self, found: EmbeddedTexts) -> None:
        length = len(found.vectors[0])
        if self._vectors and len(self._vectors[0]) != length:
            detail = f"Two models are named {self._batch.model!r}: their vectors differ in length."
            raise AllProvidersFailed(((self._left[0].name, InvalidAnswer(detail)),))
        wanted, model = self._batch.dimensions, self._batch.model
        check_dimensions(wanted, found=length // FLOAT_BYTES, model=model)
        self._vectors += found.vectors
        self._tokens += found.prompt_tokens

    def _routed(self, provider: EmbeddingProvider, found: EmbeddedTexts) -> Route:
        return Route(
            provider=provider.name,
            endpoint=found.endpoint,
            attempts=self._attempts_needed,
            fallback=self._reason is not None,
            reason=self._reason,
            waited=self._waited + self._attempts.waited,
        )

    def _begin_piece(self) -> None:
        """Count the attempts of the next piece from 1, since pieces are no retries of each other."""
        self._most_attempts = self._attempts_needed
        self._waited += self._attempts.waited
        self._attempts = Attempts(self._clock)

    @property
    def _attempts_needed(self) -> int:
        """The most requests, to all providers together, that one piece (up to 128 texts) of the batch needed."""
        return max(self._most_attempts, self._attempts.count)

    def _give_up(self, provider: EmbeddingProvider, error: MongarsError) -> None:
        self._left.remove(provider)
        if not provider.local and self._deadline.expired():
            return  # no other provider is tried
        reason = self._report.provider_failed(provider.name, error, local=provider.local)
        self._reason = reason or self._reason

    def _failure(self) -> MongarsError:
        if self._causes:
            unknown = [("model", InferenceFailed(str(error))) for error in self._without_model]
            return AllProvidersFailed((*self._causes, *unknown), cure=self._cure)
        found = "".join(f" {error}" for error in self._without_model)
        detail = (
            f"No vectors of {self._batch.model!r}: set RAY_EMBEDDING_MODEL to the same model for the"
            f" Serve application and for this API, and provision it.{found}"
        )
        return ModelUnknown(detail, param="model")

    def _report_end(self, outcome: Outcome) -> None:
        route = self._route
        self._observer.observe(
            EmbeddingsEnded(
                request_id=self._batch.request_id,
                task_type=EMBEDDING_TASK,
                provider="none" if route is None else route.provider,
                endpoint="" if route is None else route.endpoint,
                attempts=self._attempts_needed,
                fallback=self._reason is not None,
                reason=self._reason,
                outcome=outcome,
                texts=len(self._batch.texts),
                prompt_tokens=self._tokens,
                seconds=self._report.seconds(),
            )
        )
