"""monGARS' own dialect: a chat that remembers, and its history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, field_validator

from mongars.api import schemas
from mongars.api.answers import (
    AnswerResponse,
    Arrival,
    answer_headers,
    arrival,
    error_event,
    problem_headers,
    unsent,
)
from mongars.api.description import READING, asking, reference, responses
from mongars.api.requests import (
    chose_wait,
    deadline_of,
    principal_of,
    read_json,
    request_id_of,
    session_id_of,
    traceparent_of,
    whole_deadline_of,
)
from mongars.conversation.speech import speech_turn
from mongars.core.errors import Forbidden, InvalidRequest, MongarsError
from mongars.core.generation import confidence
from mongars.protocol.asgi import EVENT_STREAM_HEADERS
from mongars.protocol.openai import usage_body
from mongars.protocol.problems import error_facts, status_of
from mongars.protocol.sse import DONE, encode_event
from mongars.protocol.wire_model import WireModel

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mongars.api.context import ApiContext
    from mongars.conversation.chat import Reply
    from mongars.conversation.history import Turn
    from mongars.core.deadline import Deadline
    from mongars.core.identity import Principal
    from mongars.protocol.asgi import Answer

HISTORY_CAP = 100
LONGEST_SESSION_ID = 100
EXAMPLE = {"message": "Say hello."}


class ConversationMessage(WireModel):
    """`POST /api/v1/conversation/chat`."""

    message: str = Field(min_length=1, max_length=100_000)
    session_id: str | None = Field(default=None, max_length=LONGEST_SESSION_ID)
    stream: bool = False
    task_type: str = Field(default="general", max_length=50)

    @field_validator("message")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            message = "must not be blank"
            raise ValueError(message)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    request: Request
    principal: Principal
    body: ConversationMessage
    session_id: str | None
    request_id: str
    traceparent: str | None
    deadline: Deadline
    arrived: Arrival


def conversation_routes(context: ApiContext) -> APIRouter:
    """The router of the dialect."""
    door = ConversationDoor(context)
    router = APIRouter(prefix="/api/v1/conversation", tags=["conversation"])
    router.add_api_route(
        "/chat",
        door.chat,
        methods=["POST"],
        response_model=None,
        **asking(
            ConversationMessage,
            EXAMPLE,
            schemas.ConversationReply,
            422,
            events="Events `chunk` and `reasoning` with a `delta`, then `complete` with the reply.",
        ),
    )
    router.add_api_route(
        "/history",
        door.history,
        methods=["GET"],
        response_model=None,
        responses=responses(
            {"type": "array", "items": reference(schemas.Turn)}, *READING, 400, 403, 422
        ),
    )
    return router


class ConversationDoor:
    """Handlers of the dialect."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def chat(self, request: Request) -> Response:
        """Answer a message, whole or as events, with the turns of its session before it.

        The session is named by `session_id` or the header `x-session-id`; without one a new session
        begins, and the response names it.
        """
        arrived = arrival(self._context.clock)
        principal = await principal_of(request, self._context.authenticator)
        config = self._context.config
        deadline = deadline_of(request, clock=self._context.clock, limit=config.answer_timeout)
        limit = config.max_body_bytes
        body = await read_json(request, ConversationMessage, limit=limit)
        if not body.stream:
            deadline = whole_deadline_of(request, deadline)
        ask = _Ask(
            request=request,
            principal=principal,
            body=body,
            session_id=body.session_id or session_id_of(request, longest=LONGEST_SESSION_ID),
            request_id=request_id_of(request),
            traceparent=traceparent_of(request),
            deadline=deadline,
            arrived=arrived,
        )
        serve = self._stream if body.stream else self._whole
        return AnswerResponse(lambda answer: serve(answer, ask))

    async def history(
        self,
        request: Request,
        *,
        user_id: Annotated[str | None, Query()] = None,
        limit: Annotated[int, Query()] = 10,
        session_id: Annotated[str | None, Query(max_length=LONGEST_SESSION_ID)] = None,
    ) -> Response:
        """The caller's own turns, newest first; of all sessions unless one is named."""
        principal = await principal_of(request, self._context.authenticator)
        if user_id is not None and user_id != principal.username:
            detail = "Forbidden: a history is shown to its owner only."
            raise Forbidden(detail)
        if limit <= 0:
            return JSONResponse({"detail": "limit must be positive"}, status_code=400)
        turns = await self._context.history.latest(
            principal.username, limit=min(limit, HISTORY_CAP), session_id=session_id or None
        )
        return JSONResponse([_turn_body(turn) for turn in turns])

    def _open(self, ask: _Ask) -> AbstractAsyncContextManager[Reply]:
        return self._context.chat.open(
            ask.principal,
            ask.body.message,
            request_id=ask.request_id,
            session_id=ask.session_id,
            task_type=ask.body.task_type,
            traceparent=ask.traceparent,
            deadline=ask.deadline,
        )

    async def _whole(self, answer: Answer, ask: _Ask) -> None:
        try:
            async with self._open(ask) as reply:
                overhead = ask.arrived.overhead(reply.route)
                logprobs = [value async for chunk in reply for value in chunk.logprobs]
        except MongarsError as error:
            await self._problem(answer, error, ask)
            return
        headers = answer_headers(
            ask.request_id, route=reply.route, origin=reply.origin, overhead=overhead
        )
        await answer.json(200, _reply_body(reply, logprobs), headers)

    async def _stream(self, answer: Answer, ask: _Ask) -> None:
        try:
            async with self._open(ask) as reply:
                headers = answer_headers(
                    ask.request_id,
                    route=reply.route,
                    origin=reply.origin,
                    overhead=ask.arrived.overhead(reply.route),
                )
                await answer.start(200, {**EVENT_STREAM_HEADERS, **headers})
                logprobs: list[float] = []
                async for chunk in reply:
                    logprobs += chunk.logprobs
                    if chunk.reasoning:
                        event = encode_event({"delta": chunk.reasoning}, name="reasoning")
                        await answer.write(event)
                    if chunk.text:
                        await answer.write(encode_event({"delta": chunk.text}, name="chunk"))
                await answer.write(encode_event(_reply_body(reply, logprobs), name="complete"))
                await answer.write(DONE)
        except MongarsError as error:
            if not answer.started:
                await self._problem(answer, error, ask)
                return
            await answer.write(error_event(error))
        await answer.end()

    async def _problem(self, answer: Answer, error: MongarsError, ask: _Ask) -> None:
        error = unsent(error, ask.deadline)
        limit = self._context.config.answer_timeout
        chosen = chose_wait(ask.request, limit=limit, whole=not ask.body.stream)
        fixed = problem_headers(error, ask.request_id, chose_wait=chosen)
        body = {"detail": str(error), "error": error.code, **error_facts(error)}
        await answer.json(status_of(error), body, fixed)


def _reply_body(reply: Reply, logprobs: list[float]) -> dict[str, Any]:
    """The whole reply. `confidence` is exp(mean token log-probability), null if not reported."""
    turn = reply.turn
    if turn is None:
        detail = "The reply was read before it was complete."
        raise InvalidRequest(detail)
    return {
        "response": reply.text,
        "confidence": confidence(logprobs),
        "processing_time": round(reply.processing_time, 6),
        "speech_turn": speech_turn(
            reply.text, turn_id=f"turn-{turn.id}", created_at=turn.timestamp
        ),
        "session_id": turn.session_id,
        "finish_reason": reply.finish_reason,
        "usage": None if reply.usage is None else usage_body(reply.usage),
        "provider": reply.route.provider,
        "adapter_version": reply.origin.adapter_version,
    }


def _turn_body(turn: Turn) -> dict[str, Any]:
    return {
        "user_id": turn.user_id,
        "query": turn.query,
        "response": turn.response,
        "timestamp": turn.timestamp.isoformat(),
        "expires_at": None if turn.expires_at is None else turn.expires_at.isoformat(),
        "session_id": turn.session_id,
    }
