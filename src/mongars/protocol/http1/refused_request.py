"""Requests that are refused by the HTTP parser, before the application receives them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable

    Headers = Iterable[tuple[bytes, bytes]]


class RefusedRequest(Exception):
    """A request that must be refused with the HTTP status `status`; its connection is then closed.

    `detail`: the message for the client. Raised while a request head is checked; `response` makes the bytes to send.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail

    def response(self, headers: Headers) -> bytes:
        """The bytes of the complete HTTP response to this request, with an error body in OpenAI's format.

        `headers`: names and values of headers to send before the ones that this response needs.
        """
        server = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        error = {
            "message": self.detail,
            "type": "server_error" if server else "invalid_request_error",
            "param": None,
            "code": "overloaded" if server else "invalid_request",
        }
        body = orjson.dumps({"error": error})
        fields = [
            *headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *([(b"retry-after", b"1")] if server else []),
        ]
        status = HTTPStatus(self.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
        lines += [b"%s: %s" % field for field in fields]
        return b"\r\n".join([*lines, b"", body])
