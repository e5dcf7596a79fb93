"""Serving one generated answer, as one JSON body or as a stream, in any dialect (client API).

```
arrival ─ credentials ─ deadline ─ bounded read ─ Dialect.read ─> AnswerCall
AnswerCall.open ─┬─ whole:  chunks ─> BodyWriter  ─> one JSON body
                 └─ stream: chunks ─> EventWriter ─> events, then the end
an error ────────┬─ nothing sent yet:  a status and ErrorFormat.body
                 └─ after the first byte: ErrorFormat.event ends the stream
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from fastapi.responses import Response

from mongars.api.answers import answer_headers, arrival, unsent
from mongars.api.dialect import ArrivedRequest, Stream
from mongars.api.error_responses import refuse
from mongars.api.requests import (
    chose_wait,
    deadline_of,
    principal_of,
    read_body,
    request_id_of,
    whole_deadline_of,
)
from mongars.core.errors import MongarsError
from mongars.protocol.asgi import ResponseWriter, WrittenResponse

if TYPE_CHECKING:
    from fastapi import Request

    from mongars.api.answers import Arrival
    from mongars.api.context import ApiContext
    from mongars.api.dialect import AnswerCall, Dialect
    from mongars.core.deadline import Deadline


class AnswerResponse(WrittenResponse, Response):
    """A response that is written while the answer is generated, by a function given when it is created.

    That function gets a `ResponseWriter`. It is also a `Response`, so that a FastAPI route handler can return it.
    """


async def serve_answer(request: Request, context: ApiContext, dialect: Dialect[Stream]) -> Response:
    """Authenticate and parse a request for a generated answer; the returned response generates and writes the answer.

    `dialect` is the client API of the route. Raises a `MongarsError` if credentials, headers or body of the request
    are invalid. If generating fails or takes too long, the response reports the error, in the format of the dialect.
    Too long is more than `answer_timeout` of the API's configuration (seconds), or less if the client sent a deadline.
    """
    arrived = arrival(context.clock)
    principal = await principal_of(request, context.authenticator)
    config = context.config
    deadline = deadline_of(request, clock=context.clock, limit=config.answer_timeout)
    body = await read_body(request, limit=config.max_body_bytes)
    call = dialect.read(body, ArrivedRequest(request, principal, arrived))
    if isinstance(call, Response):
        return call
    if not call.streamed:
        deadline = whole_deadline_of(request, deadline)
    exchange = _Exchange(
        request, dialect, call, arrived=arrived, deadline=deadline, limit=config.answer_timeout
    )
    return AnswerResponse(exchange.stream if call.streamed else exchange.whole)


class _Exchange(Generic[Stream]):
    """Generates the answer to one parsed request (`call`) until `deadline` and writes its response.

    `limit`: the server's longest time for an answer, in seconds.
    """

    def __init__(
        self,
        request: Request,
        dialect: Dialect[Stream],
        call: AnswerCall[Stream],
        *,
        arrived: Arrival,
        deadline: Deadline,
        limit: float,
    ) -> None:
        self._request = request
        self._request_id = request_id_of(request)
        self._dialect = dialect
        self._call = call
        self._arrived = arrived
        self._deadline = deadline
        self._limit = limit

    async def whole(self, response: ResponseWriter) -> None:
        """Write the answer as one JSON body, or an error response if generating it fails."""
        try:
            async with self._call.open(self._deadline) as stream:
                overhead = self._arrived.overhead(stream.route)
                writer = self._call.body_writer(stream)
                chunks = aiter(stream)
                async for first in chunks:
                    writer.add((first, *chunks.ready()))
                body = writer.body()
                headers = self._headers(stream, overhead)
        except MongarsError as error:
            await self._refuse(response, error)
            return
        await response.json(200, body, headers)

    async def stream(self, response: ResponseWriter) -> None:
        """Write the answer as a stream.

        If generating fails after the first byte was sent, the stream ends with an error event; if before, the response
        is an error response.
        """
        try:
            async with self._call.open(self._deadline) as stream:
                headers = self._headers(stream, self._arrived.overhead(stream.route))
                await response.start(200, {**self._dialect.stream_headers, **headers})
                writer = self._call.event_writer(stream)
                chunks = aiter(stream)
                async for first in chunks:
                    if block := writer.events((first, *chunks.ready())):
                        await response.write(block)
                await response.write(writer.end())
        except MongarsError as error:
            if not response.started:
                await self._refuse(response, error)
                return
            await response.write(self._dialect.errors.event(error))
        await response.end()

    def _headers(self, stream: Stream, overhead: float) -> dict[str, str]:
        return answer_headers(
            self._request_id, route=stream.route, origin=stream.origin, overhead=overhead
        )

    async def _refuse(self, response: ResponseWriter, error: MongarsError) -> None:
        """Write a complete error response: status, headers and body. Call it only if no byte of a response was sent."""
        error = unsent(error, self._deadline)
        chosen = chose_wait(self._request, limit=self._limit, whole=not self._call.streamed)
        errors = self._dialect.errors
        await refuse(response, error, errors, request_id=self._request_id, chose_wait=chosen)
