"""One POST to one Ray endpoint, read up to the first content token."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongars.core.errors import EndpointUnreachable, InvalidAnswer, MongarsError
from mongars.inference.retry.failures import failure_of, failure_of_status, first_token_timeout
from mongars.inference.retry.retry_after import retry_after
from mongars.inference.streams.decoding import SseDecoder, origin_of, whole_chunks
from mongars.inference.streams.reader import AnswerReader, WholeAnswer
from mongars.protocol import headers
from mongars.protocol.body import encode, json_object
from mongars.protocol.generate import request_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest, Origin
    from mongars.inference.config import InferenceConfig
    from mongars.inference.http.pool import HttpPool, UpstreamResponse
    from mongars.inference.provider import Attempts

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedAnswer:
    """An answer whose first content has come."""

    origin: Origin
    chunks: AnswerReader | WholeAnswer
    continued: bool = False


class RayExchange:
    """How one request is put to any endpoint."""

    def __init__(
        self,
        request: GenerationRequest,
        *,
        config: InferenceConfig,
        http: HttpPool,
        clock: Clock,
        deadline: Deadline,
        attempts: Attempts,
    ) -> None:
        self._request = request
        self._config = config
        self._http = http
        self._clock = clock
        self._deadline = deadline
        self._attempts = attempts
        self._body = encode(
            request_body(
                request,
                stream=True,
                cache_salt=config.cache_salt(request.scope),
                weight=config.share(request.scope).weight,
            )
        )

    @asynccontextmanager
    async def open(self, url: str, commit_by: Deadline) -> AsyncIterator[StartedAnswer]:
        """Ask that endpoint; enters with the first content, or raises.

        Raises `AttemptError`, or a `CallerError` that the endpoint found. Leaving hangs up.
        """
        patience = commit_by.remaining()
        async with AsyncExitStack() as stack:
            try:
                with self._attempts.waiting():
                    async with asyncio.timeout(patience):
                        post = self._http.post(url, self._body, self._headers())
                        response = await stack.enter_async_context(post)
                        begun = await self._read(response)
            except TimeoutError as exc:
                raise first_token_timeout(patience) from exc
            except MongarsError as exc:
                raise failure_of(exc) from exc
            yield begun
            response.reusable = begun.chunks.state == "complete"

    async def _read(self, response: UpstreamResponse) -> StartedAnswer:
        if not 200 <= response.status < 300:  # noqa: PLR2004 - success
            raise failure_of_status(
                response.status,
                await _error_body(response),
                scaling=self._config.scaling_status_codes,
                wait=retry_after(
                    response.headers, now=self._clock.now(), maximum=self._config.retry_after_max
                ),
            )
        if response.media_type == EVENT_STREAM:
            return await self._read_stream(response)
        return await self._read_whole(response)

    async def _read_stream(self, response: UpstreamResponse) -> StartedAnswer:
        origin = origin_of(response.headers, {})
        reader = AnswerReader(
            response.blocks,
            SseDecoder(),
            origin=origin,
            idle=self._config.idle_timeout,
            deadline=self._deadline,
            choices=self._request.sampling.n,
        )
        await reader.commit()
        return StartedAnswer(
            origin=reader.origin,
            chunks=reader,
            continued=self._has_continued(response, reader.origin),
        )

    def _has_continued(self, response: UpstreamResponse, origin: Origin) -> bool:
        begun = self._request.continue_from
        if begun is None or response.headers.get(headers.CONTINUED) != "true":
            return False
        if not begun.was_from(origin):
            detail = "The endpoint continued an answer that was not its own."
            raise InvalidAnswer(detail)
        return True

    async def _read_whole(self, response: UpstreamResponse) -> StartedAnswer:
        body = json_object(await response.body())
        origin = origin_of(response.headers, body)
        chunks = whole_chunks(body)
        return StartedAnswer(origin=origin, chunks=WholeAnswer(chunks))

    def _headers(self) -> dict[str, str]:
        found = {
            "accept": f"{EVENT_STREAM}, application/json",
            headers.REQUEST_ID: self._request.request_id,
            headers.REQUEST_TIMEOUT_MS: str(max(1, int(self._deadline.remaining() * 1000))),
        }
        if self._request.traceparent is not None:
            found[headers.TRACEPARENT] = self._request.traceparent
        if self._config.token is not None:
            found["authorization"] = f"Bearer {self._config.token}"
        session_id = self._request.session_id
        if session_id is not None:
            # Routers keep a session on one replica by this; proxies log it, so it names nobody.
            found[headers.SESSION_ID] = hashlib.sha256(session_id.encode()).hexdigest()[:32]
        return found


async def _error_body(response: UpstreamResponse) -> dict[str, Any]:
    """What an error answer says; nothing, if it does not say it in JSON."""
    try:
        return json_object(await response.body())
    except (InvalidAnswer, EndpointUnreachable):
        return {}
