"""Serving one request for embeddings, in any dialect (client API). For generated answers see `api.serve_answer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mongars.api.answers import arrival, route_headers
from mongars.api.error_responses import refuse
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
from mongars.protocol.field_names import renamed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import Request
    from fastapi.responses import Response

    from mongars.api.answers import Arrival
    from mongars.api.context import ApiContext
    from mongars.api.dialect import ErrorFormat
    from mongars.core.deadline import Deadline
    from mongars.inference.embedding import EmbeddedBatch
    from mongars.protocol.asgi import ResponseWriter

AT_ONCE = 64
"""The number of vectors encoded as JSON before the event loop may serve other requests."""


class EmbeddingCall(Protocol):
    """Interface of one parsed request for embeddings, which also builds the JSON body of its response."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to embed, at least one."""
        ...

    @property
    def dimensions(self) -> int | None:
        """The number of dimensions that the client requested for each vector; None for the model's own number."""
        ...

    @property
    def field_names(self) -> Mapping[str, str]:
        """The names that errors give fields of OpenAI's protocol, and the name of each in this one, where it differs."""
        ...

    @property
    def model(self) -> str:
        """The name of the embedding model to use."""
        ...

    def entry(self, index: int, vector: bytes) -> object:
        """The part of the JSON response for the text at `index`, counted from 0.

        `vector` is the text's embedding as packed float32 bytes.
        """
        ...

    def body(self, found: EmbeddedBatch, entries: Sequence[object], *, seconds: float) -> object:
        """The JSON body of the response; `entries` are the results of `entry` for all texts, in order.

        `found` has the model's name, the number of tokens, and which provider was used. `seconds` is the time since the
        request arrived.
        """
        ...


class EmbeddingDialect(Protocol):
    """Interface of one embeddings route of a client API: parses its requests and names its error format."""

    @property
    def errors(self) -> ErrorFormat:
        """The format in which errors of this route are written."""
        ...

    def read(self, body: bytes) -> EmbeddingCall:
        """Parse the body of a request.

        Raises a `CallerError`, such as `InvalidRequest` or `ModelUnknown`, for a request that cannot be answered.
        """
        ...


async def serve_embeddings(
    request: Request, context: ApiContext, dialect: EmbeddingDialect
) -> Response:
    """Authenticate and parse a request for embeddings; the returned response computes and writes them.

    `dialect` is the client API of the route. Raises a `MongarsError` if credentials, headers or body of the request
    are invalid. If computing fails or takes too long, the response reports the error, in the format of the dialect.
    Too long is more than `answer_timeout` of the API's configuration (seconds), or less if the client sent a deadline.
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
        """Compute the embeddings of `batch` and write the response.

        It is an error response if that fails or is not done when `deadline` passes.
        """
        try:
            found = await self._context.embeddings.embed(batch, deadline)
        except MongarsError as error:
            await self._refuse(response, renamed(error, self._call.field_names))
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
        await refuse(response, error, self._errors, request_id=self._request_id, chose_wait=chosen)
