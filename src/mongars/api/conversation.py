"""The routes of monGARS' own API: a chat whose turns are stored, and the history of these turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, field_validator

from mongars.api import schemas
from mongars.api.description import READING, answering, reference, responses
from mongars.api.dialect import RouteTable
from mongars.api.error_formats import OWN_ERRORS
from mongars.api.naming_fields import naming_fields
from mongars.api.requests import principal_of, request_id_of, session_id_of, traceparent_of
from mongars.api.serve_answer import serve_answer
from mongars.conversation.speech import speech_turn
from mongars.core.errors import Forbidden, InvalidAnswer
from mongars.core.generation import confidence
from mongars.protocol.adapter_field import DemandsAdapter, pin_of
from mongars.protocol.asgi import EVENT_STREAM_HEADERS
from mongars.protocol.body import parse_model
from mongars.protocol.openai import usage_body
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from mongars.api.context import ApiContext
    from mongars.api.dialect import ArrivedRequest
    from mongars.conversation.chat import Chat, ChatStream
    from mongars.conversation.history import Turn
    from mongars.core.deadline import Deadline
    from mongars.core.generation import Chunk

HISTORY_CAP = 100
LONGEST_CONVERSATION_ID = 100
EXAMPLE = {"message": "Say hello."}
FIELD_NAMES = {"messages": "message"}
"""Fields of OpenAI's chat protocol that errors name, and the field of this route in its place."""


class ConversationMessage(DemandsAdapter):
    """The JSON body of `POST /api/v1/conversation/chat`: a user's message, and the session it belongs to.

    A null `session_id` means the session in the header `x-session-id`; without both, a new session begins. `stream`:
    respond with events instead of one JSON object. `task_type` selects the model: `code`, `coding` or `developer` the
    one for code, any other text the general one.
    `adapter` names the adapter that must generate the answer; null: any.
    """

    message: str = Field(min_length=1, max_length=100_000)
    session_id: str | None = Field(default=None, max_length=LONGEST_CONVERSATION_ID)
    stream: bool = False
    task_type: str = Field(default="general", max_length=50)

    @field_validator("message")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            message = "must not be blank"
            raise ValueError(message)
        return value


def conversation_routes(context: ApiContext) -> RouteTable:
    """The route table of `/api/v1/conversation/chat` and `/api/v1/conversation/history`.

    Errors of these routes, and of unknown paths under `/api/v1`, have the JSON body `{"detail": text, "error": code}`.
    """
    handlers = ConversationRoutes(context)
    router = APIRouter(prefix="/api/v1/conversation", tags=["conversation"])
    router.add_api_route(
        "/chat",
        handlers.chat,
        methods=["POST"],
        response_model=None,
        **answering(
            ConversationMessage,
            EXAMPLE,
            schemas.ConversationReply,
            422,
            events="Events `chunk` and `reasoning` with a `delta`, then `complete` with the reply.",
        ),
    )
    router.add_api_route(
        "/history",
        handlers.history,
        methods=["GET"],
        response_model=None,
        responses=responses(
            {"type": "array", "items": reference(schemas.ConversationTurn)}, *READING, 400, 403, 422
        ),
    )
    return RouteTable(
        router=router,
        prefix="/api/v1",
        errors=OWN_ERRORS,
        models=(
            ConversationMessage,
            schemas.ConversationReply,
            schemas.Problem,
            schemas.ConversationTurn,
        ),
    )


class ConversationRoutes:
    """Handlers of `/api/v1/conversation/chat` and `/api/v1/conversation/history`."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._dialect = ConversationChat(context.chat)

    async def chat(self, request: Request) -> Response:
        """Answer a message, as one JSON object, or as a stream if the field `stream` is true.

        The model also gets earlier turns of the session. The session is named by `session_id` or, if the body has
        none, by the header `x-session-id`; without either a new session begins, and the response contains its id.
        """
        return await serve_answer(request, self._context, self._dialect)

    async def history(
        self,
        request: Request,
        *,
        user_id: Annotated[str | None, Query()] = None,
        limit: Annotated[int, Query()] = 10,
        session_id: Annotated[str | None, Query(max_length=LONGEST_CONVERSATION_ID)] = None,
    ) -> Response:
        """List the latest turns (message and answer) of the account, newest first: `limit`, but 100 at most.

        `session_id` selects one session; without it, the turns of all sessions are listed. `user_id`, if given, must be
        the account's username; the status is 403 if not, and 400 if `limit` is not positive.
        """
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


class ConversationChat:
    """The dialect of `/api/v1/conversation/chat` (implements `Dialect`).

    It parses request bodies and names the error format and stream headers.
    """

    errors = OWN_ERRORS
    stream_headers = EVENT_STREAM_HEADERS

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def read(self, body: bytes, arrived: ArrivedRequest) -> ConversationCall:
        """Parse `body`, the whole JSON body of the request `arrived`.

        Raises `InvalidRequest` if it is no valid `ConversationMessage`, or if the header `x-session-id`, read if the
        body has no session id, has more than 100 characters.
        """
        return ConversationCall(self._chat, parse_model(body, ConversationMessage), arrived)


class ConversationCall:
    """One parsed request of `/api/v1/conversation/chat` (implements `AnswerCall`).

    `streamed`: whether the client requested a stream.
    """

    def __init__(self, chat: Chat, read: ConversationMessage, arrived: ArrivedRequest) -> None:
        self._chat = chat
        self._read = read
        self._arrived = arrived
        self._session_id = read.session_id or session_id_of(
            arrived.http, longest=LONGEST_CONVERSATION_ID
        )
        self.streamed = read.stream

    def open(self, deadline: Deadline) -> AbstractAsyncContextManager[ChatStream]:
        """A context manager that gives the stream of the started answer; entering it waits for the first token.

        The prompt contains as many earlier turns of the session as fit the model's context window. `deadline`: the
        time by which the answer must be complete. Raises a `MongarsError` if no provider has started the answer by
        then, or if the earlier turns cannot be read. If the answer is not read to its end, its generation is stopped
        and no turn is stored.
        """
        opened = self._chat.open(
            self._arrived.principal,
            self._read.message,
            request_id=request_id_of(self._arrived.http),
            session_id=self._session_id,
            task_type=self._read.task_type,
            adapter=pin_of(self._read.adapter),
            traceparent=traceparent_of(self._arrived.http),
            deadline=deadline,
        )
        return naming_fields(opened, FIELD_NAMES)

    def body_writer(self, stream: ChatStream) -> _ReplyWriter:
        """A new writer that builds the reply, one JSON object, from the chunks of `stream`."""
        return _ReplyWriter(stream)

    def event_writer(self, stream: ChatStream) -> _ReplyWriter:
        """A new writer of server-sent events: `chunk` and `reasoning` with a piece of text each, then `complete`.

        The event `complete` contains the reply, the JSON object of `body_writer`; `[DONE]` follows it.
        """
        return _ReplyWriter(stream)


class _ReplyWriter:
    """Writes one answer as a JSON object or as events.

    The event `complete`, the last one before `[DONE]`, contains the same JSON object.
    """

    def __init__(self, stream: ChatStream) -> None:
        self._stream = stream
        self._logprobs: list[float] = []

    def add(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._logprobs += chunk.logprobs

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        self.add(chunks)
        written = b""
        for chunk in chunks:
            if chunk.reasoning:
                written += encode_event({"delta": chunk.reasoning}, name="reasoning")
            if chunk.text:
                written += encode_event({"delta": chunk.text}, name="chunk")
        return written

    def end(self) -> bytes:
        return encode_event(self.body(), name="complete") + DONE

    def body(self) -> dict[str, Any]:
        """The JSON object of the response, once the whole answer is read and stored; raises `InvalidAnswer` before.

        `response` is the answer's text; `confidence` exp(mean log-probability of the tokens), None if the model server
        reported none; `processing_time` is in seconds. The other keys are `speech_turn`, `session_id`,
        `finish_reason`, `usage`, `provider` and `adapter_version`.
        """
        stream, turn = self._stream, self._stream.turn
        if turn is None:
            detail = "The answer was not read to its end."
            raise InvalidAnswer(detail)
        return {
            "response": stream.text,
            "confidence": confidence(self._logprobs),
            "processing_time": round(stream.processing_time, 6),
            "speech_turn": speech_turn(
                stream.text, turn_id=f"turn-{turn.id}", created_at=turn.timestamp
            ),
            "session_id": turn.session_id,
            "finish_reason": stream.finish_reason,
            "usage": None if stream.usage is None else usage_body(stream.usage),
            "provider": stream.route.provider,
            "adapter_version": stream.origin.adapter_version,
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
