"""A generation request to a Ray endpoint: POST `/generate`; started once the first content token is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import InvalidAnswer
from mongars.inference.ray.http_exchange import HttpExchange
from mongars.inference.streams.decoding import SseDecoder, origin_of, whole_chunks
from mongars.inference.streams.reader import AnswerReader, WholeAnswer
from mongars.protocol import headers
from mongars.protocol.body import encode, json_object
from mongars.protocol.generate import request_body

if TYPE_CHECKING:
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest, Origin
    from mongars.inference.http.http_pool import UpstreamResponse
    from mongars.inference.provider import Attempts, StreamState
    from mongars.inference.ray.http_exchange import ExchangeContext

EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedAnswer:
    """An answer of a Ray endpoint, after its first content has arrived.

    `origin`: model, engine, adapter and replica that generate it. A request may have the beginning of an answer that
    broke off (`continue_from`): `continued` is True if the chunks start after that text, False if they begin with the
    whole answer again or the request has none.
    """

    origin: Origin
    chunks: AnswerReader | WholeAnswer
    continued: bool = False

    @property
    def state(self) -> StreamState:
        """`open` while more chunks may come, `complete`, or `cut` if the stream broke before it was complete."""
        return self.chunks.state

    @property
    def stalled(self) -> bool:
        """Whether the answer was cut because no chunk arrived for `InferenceConfig.idle_timeout` seconds."""
        return self.chunks.stalled

    @property
    def adapter_version(self) -> str:
        """Version of the adapter that generates the answer, as the endpoint reports it; `baseline` without one."""
        return self.origin.adapter_version


class GenerationExchange(HttpExchange[StartedAnswer]):
    """One generation request, which can be sent to any Ray endpoint; its result is a stream of chunks."""

    accept = f"{EVENT_STREAM}, application/json"

    def __init__(
        self,
        context: ExchangeContext,
        request: GenerationRequest,
        *,
        deadline: Deadline,
        attempts: Attempts,
    ) -> None:
        super().__init__(
            context,
            request_id=request.request_id,
            task_type=request.task_type,
            deadline=deadline,
            attempts=attempts,
        )
        self._request = request
        self.scope = request.scope
        self.session_id = request.session_id
        self.traceparent = request.traceparent
        self.start_seconds = context.config.first_token_seconds(request)
        self.is_retry = request.continue_from is not None
        # Several choices are several times the load of one.
        self.may_hedge = not self.is_retry and request.sampling.n == 1

    def body(self) -> bytes:
        """The body of `POST /generate` as encoded JSON; it requests a stream of events."""
        request, config = self._request, self._config
        body = request_body(
            request,
            stream=True,
            cache_salt=config.cache_salt(request.scope),
            weight=config.share(request.scope).weight,
        )
        return encode(body)

    async def read(self, response: UpstreamResponse) -> StartedAnswer:
        """The started answer in a response with HTTP status 2xx, a stream of events or one JSON object.

        Waits for the first content. Raises the error that the response reports, `EmptyAnswer` if it has no text,
        `InvalidAnswer` if it is malformed, or `EndpointUnreachable` if the connection breaks.
        """
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
        partial = self._request.continue_from
        if partial is None or response.headers.get(headers.CONTINUED) != "true":
            return False
        if not partial.was_from(origin):
            detail = "The endpoint continued an answer of another model or adapter."
            raise InvalidAnswer(detail)
        return True

    async def _read_whole(self, response: UpstreamResponse) -> StartedAnswer:
        body = json_object(await response.body())
        origin = origin_of(response.headers, body)
        return StartedAnswer(origin=origin, chunks=WholeAnswer(whole_chunks(body)))
