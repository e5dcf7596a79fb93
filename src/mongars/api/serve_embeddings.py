"""Serving one request for embeddings, in any dialect; `api.serve_answer` is the same for answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mongars.api.answers import arrival, problem_headers, route_headers
from mongars.api.requests import (
    chose_wait,
    deadline_of,
    principal_of,
    read_body,
    request_id_of,
    traceparent_of,
    whole_deadline_of,
)
from mongars.api.serve_answer import AnswerResponse
from mongars.core.errors import MongarsError, TooLarge
from mongars.inference.embedding import TextBatch
from mongars.protocol.problems import status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import Request
    from fastapi.responses import Response

    from mongars.api.answers import Arrival
    from mongars.api.context import ApiContext
    from mongars.api.dialect import ErrorFormat
    from mongars.core.deadline import Deadline
    from mongars.inference.embedding import EmbeddedBatch
    from mongars.protocol.asgi import ResponseWriter

AT_ONCE = 64
"""Vectors that are written as JSON before other requests get their turn."""


class EmbeddingCall(Protocol):
    """A request for embeddings that was read, and how its response is written."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, at least one."""
        ...

    @property
    def dimensions(self) -> int | None:
        """The length of vector that is demanded; None for the model's own."""
        ...

    @property
    def model(self) -> str:
        """The embedding model."""
        ...

    def entry(self, index: int, vector: bytes) -> object:
        """One vector (packed float32) of the response, as JSON."""
        ...

    def body(self, found: EmbeddedBatch, entries: Sequence[object], *, seconds: float) -> object:
        """The JSON body of the response; `seconds` is the time since the request arrived."""
        ...


class EmbeddingDialect(Protocol):
    """Reads the requests of one route for embeddings."""

    @property
    def errors(self) -> ErrorFormat:
        """How errors are written."""
        ...

    def read(self, body: bytes) -> EmbeddingCall:
        """Read a request. Raises a `CallerError` for one that cannot be answered."""
        ...


async def serve_embeddings(
    request: Request, context: ApiContext, dialect: EmbeddingDialect
) -> Response:
    """The response to a request for embeddings.

    Raises the errors of the request itself: credentials, headers, body. Errors of the work are written
    by the response.
    """
    arrived = arrival(context.clock)
    principal = await principal_of(request, context.authenticator)
    limit = context.config.answer_timeout
    deadline = whole_deadline_of(request, deadline_of(request, clock=context.clock, limit=limit))
    call = dialect.read(await _body_of(request, limit=context.config.max_body_bytes))
    batch = TextBatch(
        texts=call.texts,
        model=call.model,
        request_id=request_id_of(request),
        scope=principal.username,
        traceparent=traceparent_of(request),
        dimensions=call.dimensions,
    )
    written = _EmbeddingResponse(request, context, dialect.errors, call=call, arrived=arrived)
    return AnswerResponse(lambda response: written.run(response, batch, deadline))


async def _body_of(request: Request, *, limit: int) -> bytes:
    try:
        return await read_body(request, limit=limit)
    except TooLarge as exc:
        detail = f"{exc} Send fewer texts at once; the limit is MONGARS_MAX_BODY_BYTES."
        raise TooLarge(detail) from exc


class _EmbeddingResponse:
    def __init__(
        self,
        request: Request,
        context: ApiContext,
        errors: ErrorFormat,
        *,
        call: EmbeddingCall,
        arrived: Arrival,
    ) -> None:
        self._request = request
        self._context = context
        self._errors = errors
        self._call = call
        self._arrived = arrived
        self._request_id = request_id_of(request)

    async def run(self, response: ResponseWriter, batch: TextBatch, deadline: Deadline) -> None:
        """Write the vectors, or the error."""
        try:
            found = await self._context.embeddings.embed(batch, deadline)
        except MongarsError as error:
            await self._refuse(response, error)
            return
        overhead = self._arrived.overhead(found.route)
        entries = await self._entries(found.vectors)
        seconds = self._context.clock.monotonic() - self._arrived.at
        headers = route_headers(self._request_id, route=found.route, overhead=overhead)
        await response.json(200, self._call.body(found, entries, seconds=seconds), headers)

    async def _entries(self, vectors: Sequence[bytes]) -> list[object]:
        entries: list[object] = []
        for start in range(0, len(vectors), AT_ONCE):
            if start:
                await self._context.clock.sleep(0)
            block = vectors[start : start + AT_ONCE]
            entries += [self._call.entry(start + i, vector) for i, vector in enumerate(block)]
        return entries

    async def _refuse(self, response: ResponseWriter, error: MongarsError) -> None:
        limit = self._context.config.answer_timeout
        chosen = chose_wait(self._request, limit=limit, whole=True)
        headers = problem_headers(error, self._request_id, chose_wait=chosen)
        await response.json(status_of(error), self._errors.body(error), headers)
