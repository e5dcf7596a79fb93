"""The ports of a dialect: how one family of routes reads requests and writes responses, streams and errors.

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

Stream = TypeVar("Stream", bound=GeneratedStream)


class ErrorFormat(Protocol):
    """How a dialect writes errors."""

    @property
    def invalid_status(self) -> int:
        """The HTTP status for a request that cannot be read; every other error has one of its own."""
        ...

    def body(self, error: MongarsError) -> object:
        """The JSON body of an error response."""
        ...

    def event(self, error: MongarsError) -> bytes:
        """The bytes that end a stream whose answer failed after the first byte was sent."""
        ...


class BodyWriter(Protocol):
    """Collects the chunks of one answer for a response in one piece."""

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Take the next chunks; there is at least one."""
        ...

    def body(self) -> object:
        """The JSON body of the response. Raises `InvalidAnswer` if the answer is not complete."""
        ...


class EventWriter(Protocol):
    """Writes the chunks of one answer as a stream."""

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        """The bytes to send for these chunks (at least one); may be empty."""
        ...

    def end(self) -> bytes:
        """The last bytes of the stream of a complete answer."""
        ...


class AnswerCall(Protocol[Stream]):
    """A parsed request: whether to stream its answer, how to start it, how to write it."""

    @property
    def streamed(self) -> bool:
        """Whether the client wants a stream."""
        ...

    def open(self, deadline: Deadline) -> AbstractAsyncContextManager[Stream]:
        """A context with the started answer. Entering waits for the first token and raises what fails before it."""
        ...

    def body_writer(self, stream: Stream) -> BodyWriter:
        """A writer for a response in one piece."""
        ...

    def event_writer(self, stream: Stream) -> EventWriter:
        """A writer for a streamed response."""
        ...


@dataclass(frozen=True, slots=True)
class ArrivedRequest:
    """An authenticated request: headers, account and time of arrival, without the body."""

    http: Request
    principal: Principal
    arrival: Arrival

    def to_generation(
        self, messages: tuple[Message, ...], *, sampling: Sampling, task_type: str = "general"
    ) -> GenerationRequest:
        """A generation request for this account, with the request id, session and trace context of the headers.

        Raises `InvalidRequest` for a session id that is too long.
        """
        return GenerationRequest(
            messages=messages,
            request_id=request_id_of(self.http),
            task_type=task_type,
            sampling=sampling,
            session_id=session_id_of(self.http, longest=LONGEST_SESSION_ID),
            traceparent=traceparent_of(self.http),
            scope=self.principal.username,
        )


class Dialect(Protocol[Stream]):
    """Reads the requests of one route and writes its responses."""

    @property
    def errors(self) -> ErrorFormat:
        """How errors are written."""
        ...

    @property
    def stream_headers(self) -> Mapping[str, str]:
        """The headers of a stream, its media type among them."""
        ...

    def read(self, body: bytes, arrived: ArrivedRequest) -> AnswerCall[Stream] | Response:
        """Parse a request body; returns a finished `Response` instead if no model is needed.

        Raises `CallerError` for a request that cannot be answered.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """The routes of one dialect. Errors of every path under `prefix` are written in its format.

    If several prefixes match a path, the longest applies. `models` are the schemas that the descriptions of the
    routes refer to.
    """

    router: APIRouter
    prefix: str
    errors: ErrorFormat
    models: tuple[type[BaseModel], ...] = ()
