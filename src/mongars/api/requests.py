"""Reading an HTTP request: its credential, body, ids and deadline."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from mongars.api.session_cookie import session_token_of
from mongars.core.deadline import Deadline
from mongars.core.errors import InvalidRequest
from mongars.core.ids import accept_id
from mongars.protocol import headers
from mongars.protocol.body import parse_model, read_limited

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.requests import HTTPConnection

    from mongars.api.accounts import Authenticator
    from mongars.api.session_cookie import SessionToken
    from mongars.core.clock import Clock
    from mongars.core.identity import Principal

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

Model = TypeVar("Model", bound=BaseModel)


def request_id_of(request: Request) -> str:
    """The id of a request: the value of its header `x-request-id` if that is a valid id, else a new one.

    A valid id has 1 to 128 letters, digits, `.`, `_`, `:` or `-`. Every call for the same request returns the same id.
    """
    state = request.scope.setdefault("state", {})
    if "request_id" not in state:
        given = request.headers.get(headers.REQUEST_ID)
        state["request_id"] = accept_id(given, prefix="req")
    found: str = state["request_id"]
    return found


def session_id_of(request: Request, *, longest: int) -> str | None:
    """The session id in the header `x-session-id`; None if the header is absent or empty.

    Raises `InvalidRequest`, naming the header, if the id has more than `longest` characters.
    """
    given = request.headers.get(headers.SESSION_ID) or None
    if given is not None and len(given) > longest:
        detail = f"Header {headers.SESSION_ID} has {len(given)} characters; send at most {longest}."
        raise InvalidRequest(detail)
    return given


def deadline_of(request: Request, *, clock: Clock, limit: float) -> Deadline:
    """The deadline that the client set in the header `X-Request-Timeout-Ms`, but at most `limit` seconds from now.

    The header's value is in milliseconds; without the header, the deadline is `limit` seconds from now. Raises
    `InvalidRequest` if the value is not a positive number. `clock` is the one that the deadline is measured by.
    """
    given = headers.timeout_milliseconds(request.headers.get(headers.REQUEST_TIMEOUT_MS))
    return Deadline.after(clock, limit if given is None else min(given / 1000, limit))


def whole_deadline_of(request: Request, deadline: Deadline) -> Deadline:
    """The deadline of a response that is not streamed: `deadline`, or the OpenAI client's read timeout if sooner.

    The client sends that timeout, in seconds, in `x-stainless-read-timeout`; it is counted from this call. A value
    that is not a positive number is ignored, and so is the timeout if the request has the header
    `X-Request-Timeout-Ms`. It does not limit a stream, where each event restarts it.
    """
    if headers.REQUEST_TIMEOUT_MS in request.headers:
        return deadline
    timeout = headers.positive_number(request.headers.get(headers.READ_TIMEOUT, ""))
    if timeout is None or timeout >= deadline.remaining():
        return deadline
    return Deadline.after(deadline.clock, timeout)


def chose_wait(request: Request, *, limit: float, whole: bool) -> bool:
    """Whether the client's headers set an earlier deadline for the answer than the server's `limit` in seconds.

    The headers are `X-Request-Timeout-Ms` and, if that is absent and `whole` is True (the response is not streamed),
    `x-stainless-read-timeout`.
    """
    given = headers.timeout_milliseconds(request.headers.get(headers.REQUEST_TIMEOUT_MS))
    if given is not None:
        return given / 1000 < limit
    timeout = headers.positive_number(request.headers.get(headers.READ_TIMEOUT, ""))
    return whole and timeout is not None and timeout < limit


def traceparent_of(request: Request) -> str | None:
    """The value of the header `traceparent` (W3C Trace Context, section 3.2); None if it is absent or invalid."""
    given = request.headers.get(headers.TRACEPARENT, "")
    return given if _TRACEPARENT.fullmatch(given) else None


def credential_of(connection: HTTPConnection) -> str | SessionToken | None:
    """The credential of a request or WebSocket handshake; None if it has none.

    It is the value of the `Authorization` header, or else the session cookie's token; the URL is not read. Raises
    `Forbidden` if the cookie is used and the header `Origin` is absent or another server's; GET, HEAD, OPTIONS and
    TRACE requests are not checked, unless they are a WebSocket handshake.
    """
    authorization = connection.headers.get("authorization")
    return session_token_of(connection) if authorization is None else authorization


async def principal_of(connection: HTTPConnection, authenticator: Authenticator) -> Principal:
    """The account that a request or WebSocket handshake authenticates as.

    Its credential is the `Authorization` header or, without one, the session cookie. Raises `NotAuthenticated` without
    a valid credential, `StorageUnavailable` if an API key cannot be looked up, and `Forbidden` if a page of another
    origin sent the session cookie.
    """
    return await authenticator.authenticate(credential_of(connection))


async def read_json(request: Request, model: type[Model], *, limit: int) -> Model:
    """Read the request body, at most `limit` bytes, and validate it as `model`.

    Raises `TooLarge` for a longer body, `EncodingUnsupported` for a compressed one, and `InvalidRequest` if it is not
    valid JSON for `model`, does not arrive within 10 seconds, or the client disconnects before its end.
    """
    return parse_model(await read_body(request, limit=limit), model)


async def read_body(request: Request, *, limit: int) -> bytes:
    """Read the whole request body, at most `limit` bytes.

    Raises `TooLarge` for a longer body, `EncodingUnsupported` for a compressed one, and `InvalidRequest` if it does not
    arrive within 10 seconds or the client disconnects before its end.
    """
    declared = request.headers.get("content-length")
    encoding = request.headers.get("content-encoding")
    try:
        return await read_limited(
            request.stream(), declared=declared, encoding=encoding, limit=limit
        )
    except ClientDisconnect as exc:
        detail = "The connection was closed before the request was complete."
        raise InvalidRequest(detail) from exc
