"""The interfaces of a dialect, which is one client API such as OpenAI's or Ollama's.

A dialect parses the requests of its routes and writes responses, streams and errors in the format of that API.

To add a dialect, implement `Dialect` and `ErrorFormat`, let a route call `serve_answer`, and return the
routes as a `RouteTable`. `api.serve_answer` does everything else: credentials, deadline, bounded
reading, opening and closing the answer, headers, and the choice between a status and an error event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from mongars.api.requests import request_id_of, session_id_of, traceparent_of
from mongars.conversation.chat import GeneratedStream
from mongars.core.generation import GenerationRequest
from mongars.protocol.adapter_field import pin_of
from mongars.protocol.generate import LONGEST_SESSION_ID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from fastapi import APIRouter, Request, Response
    from pydantic import BaseModel

    from mongars.api.answers import Arrival
    from mongars.core.deadline import Deadline
    from mongars.core.errors import MongarsError
    from mongars.core.generation import Chunk, Message, Sampling
    from mongars.core.identity import Principal
    from mongars.protocol.adapter_field import AdapterNames

Stream = TypeVar("Stream", bound=GeneratedStream)


class ErrorFormat(Protocol):
    """Interface to write errors in the format of one client API: JSON bodies and the last event of a failed stream."""

    @property
    def invalid_status(self) -> int:
        """The HTTP status of `InvalidRequest` in this client API, 400 or 422."""
        ...

    def body(self, error: MongarsError) -> object:
        """The body of the error response for `error`, in this client API's format, as an object to encode as JSON."""
        ...

    def event(self, error: MongarsError) -> bytes:
        """The last bytes of a stream that report `error`, for an answer that failed after the response had begun."""
        ...


class BodyWriter(Protocol):
    """Interface that collects the chunks of one answer and builds the JSON body of a response that is not streamed."""

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Append the next chunks of the answer, at least one."""
        ...

    def body(self) -> object:
        """The body of the response, after the last chunk, as an object to encode as JSON.

        Raises `InvalidAnswer` if the answer is not complete.
        """
        ...


class EventWriter(Protocol):
    """Interface that encodes the chunks of one answer as the bytes of a streamed response."""

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        """The bytes to send to the client for these chunks (at least one); empty if there is nothing to send."""
        ...

    def end(self) -> bytes:
        """The last bytes of the stream, after the last chunk of a complete answer."""
        ...


class AnswerCall(Protocol[Stream]):
    """One parsed request for a generated answer: starts the answer and makes the writer of its response."""

    @property
    def streamed(self) -> bool:
        """True if the client requested a streamed response, False for a single JSON body."""
        ...

    def open(self, deadline: Deadline) -> AbstractAsyncContextManager[Stream]:
        """A context manager that gives the stream of the started answer.

        `deadline`: the time by which the answer must be complete. Entering waits for the first token, and raises a
        `MongarsError` if that fails or the deadline passes; if it passes later, reading the stream raises
        `GenerationInterrupted`. Leaving stops the generation, unless identical requests share it.
        """
        ...

    def body_writer(self, stream: Stream) -> BodyWriter:
        """A new writer that builds one JSON body from the chunks of `stream`."""
        ...

    def event_writer(self, stream: Stream) -> EventWriter:
        """A new writer that encodes the chunks of `stream` for a streamed response."""
        ...


@dataclass(frozen=True, slots=True)
class ArrivedRequest:
    """An authenticated request whose body is not parsed yet.

    It consists of the HTTP request (`http`), the account that sent it (`principal`) and its time of arrival
    (`arrival`).
    """

    http: Request
    principal: Principal
    arrival: Arrival

    def to_generation(
        self,
        messages: tuple[Message, ...],
        *,
        sampling: Sampling,
        task_type: str = "general",
        adapter: AdapterNames | None = None,
    ) -> GenerationRequest:
        """The request for the model: `messages` and `sampling`, with account, ids and trace of this HTTP request.

        The ids are those of request and session. `task_type` selects the model: `code`, `coding` or `developer` the
        one for code, any other text the general one. `adapter`: the adapter that must generate the answer; None: any.
        Raises `InvalidRequest` if the session id in the header `x-session-id` has more than 200 characters.
        """
        return GenerationRequest(
            messages=messages,
            request_id=request_id_of(self.http),
            task_type=task_type,
            sampling=sampling,
            session_id=session_id_of(self.http, longest=LONGEST_SESSION_ID),
            adapter=pin_of(adapter),
            traceparent=traceparent_of(self.http),
            scope=self.principal.username,
        )


class Dialect(Protocol[Stream]):
    """One route of a client API, such as OpenAI's: parses its requests and names the formats of its responses."""

    @property
    def errors(self) -> ErrorFormat:
        """The format in which errors of this route are written."""
        ...

    @property
    def stream_headers(self) -> Mapping[str, str]:
        """The HTTP headers of a streamed response, including its media type."""
        ...

    def read(self, body: bytes, arrived: ArrivedRequest) -> AnswerCall[Stream] | Response:
        """Parse `body`, the whole body of the request `arrived`.

        Returns a finished `Response` if the request needs no generated answer.

        Raises a `CallerError`, such as `InvalidRequest` or `ModelUnknown`, for a request that cannot be answered.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """The routes of one client API (`router`), and `errors`, the format of errors on every path under `prefix`.

    If several prefixes match a path, the longest applies. `models` are the pydantic models that the descriptions of the
    routes refer to.
    """

    router: APIRouter
    prefix: str
    errors: ErrorFormat
    models: tuple[type[BaseModel], ...] = ()
