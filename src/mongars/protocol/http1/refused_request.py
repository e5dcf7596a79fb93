"""Requests that are refused by the HTTP parser, before the application receives them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson

from mongars.core.errors import InvalidRequest, Overloaded
from mongars.protocol.problems import openai_body, retry_after_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mongars.core.errors import MongarsError

    ErrorBody = Callable[[str, MongarsError], object]
    Headers = Iterable[tuple[bytes, bytes]]


def openai_error(path: str, error: MongarsError) -> object:  # noqa: ARG001 (the form of `ErrorBody`)
    """The JSON body of a refusal in OpenAI's format, whatever the path of the request."""
    return openai_body(error)


class RefusedRequest(Exception):
    """A request that must be refused with the HTTP status `status`; its connection is then closed.

    `detail`: the message for the client. Raised while a request head is checked; `response` makes the bytes to send.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail

    @property
    def error(self) -> MongarsError:
        """The error that the response reports: `Overloaded` for status 503, else `InvalidRequest`."""
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return Overloaded(self.detail, retry_after=1.0)
        return InvalidRequest(self.detail)

    def response(self, headers: Headers, *, path: str, error_body: ErrorBody) -> bytes:
        """The bytes of the complete HTTP response to this request, with the error body that `error_body` makes.

        `headers`: names and values of headers to send before the ones that this response needs. `path`: that of the
        request, empty if it is not known.
        """
        error = self.error
        body = orjson.dumps(error_body(path, error))
        waiting = retry_after_header(error).items()
        fields = [
            *headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *((name.lower().encode(), value.encode()) for name, value in waiting),
        ]
        status = HTTPStatus(self.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
        lines += [b"%s: %s" % field for field in fields]
        return b"\r\n".join([*lines, b"", body])
