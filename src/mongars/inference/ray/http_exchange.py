"""Base class of exchanges that are one HTTP POST of a JSON body."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

from mongars.core.errors import EndpointUnreachable, InvalidAnswer, MongarsError
from mongars.inference.endpoints.route_url import route_url
from mongars.inference.ray.exchange import ResultT
from mongars.inference.retry.failures import failure_of, failure_of_status, start_timeout
from mongars.inference.retry.retry_after import retry_after
from mongars.protocol import headers
from mongars.protocol.body import json_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.inference.config import InferenceConfig
    from mongars.inference.http.http_pool import HttpPool, UpstreamResponse
    from mongars.inference.provider import Attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeContext:
    """What all requests to Ray endpoints share: settings, HTTP connections and clock."""

    config: InferenceConfig
    http: HttpPool
    clock: Clock


class HttpExchange(ABC, Generic[ResultT]):
    """Base class of requests to Ray endpoints that are one HTTP POST of a JSON body; implements `EndpointExchange`.

    A subclass defines `body` and `read`, sets `start_seconds` (time limit for an endpoint to start the result), and
    overrides class attributes: `path` (None: the endpoint's own URL), `accept` (JSON), `scope`, `session_id`,
    `traceparent` (None); `is_retry`: its first attempt counts as a retry, `may_hedge`: it may be sent to two endpoints
    at once, `complete_at_start`: its result is complete when it starts (all False); `is_latency_sample`: its time to
    the start counts as the endpoint's latency (True).
    """

    path: str | None = None
    """Path of the route on the same application as `/generate`; None to use the endpoint's own URL."""
    accept = "application/json"
    scope: str | None = None
    session_id: str | None = None
    traceparent: str | None = None
    is_retry = False
    may_hedge = False
    is_latency_sample = True
    complete_at_start = False
    """Whether the result is complete when it starts, so that the endpoint is sent the deadline for starting it."""
    start_seconds: float

    def __init__(
        self,
        context: ExchangeContext,
        *,
        request_id: str,
        task_type: str,
        deadline: Deadline,
        attempts: Attempts,
    ) -> None:
        """`request_id` is sent to the endpoint in a header and, with `task_type` (such as `general`), put into events.

        `deadline`: the time by which the result must be complete; the time left is sent to the endpoint in a header.
        `attempts` counts the requests sent and the time spent waiting for them.
        """
        self.request_id = request_id
        self.task_type = task_type
        self._config = context.config
        self._http = context.http
        self._clock = context.clock
        self._body: bytes | None = None
        self._deadline = deadline
        self._attempts = attempts

    def target(self, endpoint: str) -> str:
        """The URL to which the request is sent, for an endpoint whose configured URL is `endpoint`.

        It is `endpoint` itself if the class attribute `path` is None, else the route `path` of the same application.
        """
        return endpoint if self.path is None else route_url(endpoint, self.path)

    @abstractmethod
    def body(self) -> bytes:
        """The request body as encoded JSON; called once, before the first attempt."""

    @abstractmethod
    async def read(self, response: UpstreamResponse) -> ResultT:
        """The result in a response with HTTP status 2xx; waits for the first content of an answer, or for all vectors.

        Raises a `MongarsError` if the response contains no usable result.
        """

    @asynccontextmanager
    async def send(self, url: str, start_by: Deadline) -> AsyncIterator[ResultT]:
        """Context manager that POSTs the body to `url`; entered when the result has started, before `start_by`.

        A result has started when the first content of an answer, or all vectors, have arrived. Entering raises
        `AttemptError` if this attempt failed or `start_by` passed, or a `CallerError` if the endpoint refused the
        request as wrong. Exit closes the connection, unless the result is complete.
        """
        seconds = start_by.remaining()
        if self._body is None:
            self._body = self.body()
        async with AsyncExitStack() as stack:
            try:
                with self._attempts.waiting():
                    async with asyncio.timeout(seconds):
                        post = self._http.post(url, self._body, self._headers(start_by))
                        response = await stack.enter_async_context(post)
                        if not 200 <= response.status < 300:  # noqa: PLR2004 - success
                            raise await self._status_error(response)
                        result = await self.read(response)
            except TimeoutError as exc:
                awaited = "result" if self.complete_at_start else "first token"
                raise start_timeout(seconds, awaited=awaited) from exc
            except MongarsError as exc:
                raise failure_of(exc) from exc
            yield result
            response.reusable = result.state == "complete"

    async def _status_error(self, response: UpstreamResponse) -> Exception:
        maximum = self._config.retry_after_max
        wait = retry_after(response.headers, now=self._clock.now(), maximum=maximum)
        return self.failure(response.status, await _error_body(response), wait=wait)

    def failure(self, status: int, body: dict[str, Any], *, wait: float | None) -> Exception:
        """The error for a response with an HTTP status other than 2xx.

        It is a `CallerError` if the request itself is wrong, else an `AttemptError`, so that another attempt may be
        made. `body`: its decoded JSON, empty if it has none. `wait`: seconds from `Retry-After`, None without it.
        """
        scaling = self._config.scaling_status_codes
        return failure_of_status(status, body, scaling=scaling, wait=wait)

    def _headers(self, start_by: Deadline) -> dict[str, str]:
        limit = start_by if self.complete_at_start else self._deadline
        found = {
            "accept": self.accept,
            headers.REQUEST_ID: self.request_id,
            headers.REQUEST_TIMEOUT_MS: str(max(1, int(limit.remaining() * 1000))),
        }
        if self.traceparent is not None:
            found[headers.TRACEPARENT] = self.traceparent
        if self._config.token is not None:
            found["authorization"] = f"Bearer {self._config.token}"
        if self.session_id is not None:
            # Routers keep a session on one replica by this header. Proxies log it, so it is a hash.
            hashed = hashlib.sha256(self.session_id.encode()).hexdigest()
            found[headers.SESSION_ID] = hashed[:32]
        return found


async def _error_body(response: UpstreamResponse) -> dict[str, Any]:
    """The JSON object in an error response; empty if the body is not a JSON object or cannot be read."""
    try:
        return json_object(await response.body())
    except (InvalidAnswer, EndpointUnreachable):
        return {}
