"""The HTTP client of the commands for the API; its error messages contain advice for the user."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from mongars.core.errors import (
    EndpointUnreachable,
    GenerationInterrupted,
    InvalidAnswer,
    MongarsError,
)
from mongars.protocol.openai import error_in
from mongars.protocol.sse import EventSplitter, ServerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """A streamed HTTP response: its headers and an iterator (`events`) over its server-sent events.

    The iterator ends with the response, and raises the API's error (a `MongarsError`) if an event reports one.
    """

    headers: Mapping[str, str]
    events: AsyncIterator[ServerEvent]


class ApiClient:
    """An HTTP client of the monGARS API at the base URL `url`; sends the API key `key` unless it is None."""

    def __init__(self, url: str, *, key: str | None) -> None:
        self.url = url
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Send a GET request for `path`; returns the HTTP status and the JSON body, whatever the status.

        A JSON body that is no object is returned as `{"items": body}`. Raises `EndpointUnreachable` without a response
        within 10 seconds, `InvalidAnswer` if the body is not JSON, `GenerationInterrupted` if the connection breaks.
        """
        async with (
            self._session(total=10) as session,
            self._request(session, "GET", path) as response,
        ):
            return response.status, await _json(response)

    @asynccontextmanager
    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[Events]:
        """A context manager that sends `body` as JSON in a POST request to `path`, and gives the streamed response.

        Connecting may take 5 seconds; the time for the response is not limited. Raises `EndpointUnreachable` if the
        connection fails, the API's error (a `MongarsError`) if the response or an event reports one, `InvalidAnswer` if
        an error response is not JSON, and `GenerationInterrupted` if the connection breaks.
        """
        async with (
            self._session(total=None) as session,
            self._request(session, "POST", path, body=body) as response,
        ):
            if response.status != HTTPStatus.OK:
                raise _error(await _json(response))
            yield Events(headers=response.headers, events=_events(response))

    def _session(self, *, total: float | None) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=total, sock_connect=5)
        return aiohttp.ClientSession(timeout=timeout, headers=self._headers)

    @asynccontextmanager
    async def _request(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        answered = False
        try:
            async with session.request(
                method, self.url + path, json=body, allow_redirects=False
            ) as response:
                answered = True
                yield response
        except (aiohttp.ClientError, TimeoutError) as exc:
            if answered:
                detail = "The connection broke before the answer was complete."
                raise GenerationInterrupted(detail) from exc
            detail = (
                f"No API answers at {self.url}. Is `mongars up` running? Another address: --url,"
                " or MONGARS_HOST and MONGARS_PORT."
            )
            raise EndpointUnreachable(detail) from exc


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[ServerEvent]:
    splitter = EventSplitter()
    async for block in response.content.iter_any():
        for event in splitter.feed(block):
            if event.name == "error":
                raise error_in(orjson.loads(event.data))
            yield event


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        body = orjson.loads(await response.read())
    except orjson.JSONDecodeError as exc:
        detail = f"{response.url} answered {response.status} with something that is not JSON."
        raise InvalidAnswer(detail) from exc
    return body if isinstance(body, dict) else {"items": body}


def _error(body: dict[str, Any]) -> MongarsError:
    return error_in(body)
