"""The OpenAI dialect: `/v1/chat/completions` and `/v1/models`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

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
from mongars.api.relay import Relay
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
from mongars.core.errors import ModelUnknown, MongarsError
from mongars.protocol.asgi import EVENT_STREAM_HEADERS
from mongars.protocol.fold import Fold
from mongars.protocol.generate import LONGEST_SESSION_ID
from mongars.protocol.openai import (
    ChatCompletionRequest,
    completion_body,
    fingerprint_in,
    logprob_entries,
    model_card,
)
from mongars.protocol.problems import openai_body, status_of

if TYPE_CHECKING:
    from mongars.api.context import ApiContext
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.protocol.asgi import Answer

CHAT_COMPLETIONS = "/v1/chat/completions"
MODEL_ALIAS = "mongars"
"""Always names the model this stack serves, whatever it is."""
EXAMPLE = {"model": MODEL_ALIAS, "messages": [{"role": "user", "content": "Say hello."}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    request: Request
    generation: GenerationRequest
    body: ChatCompletionRequest
    deadline: Deadline
    arrived: Arrival


def openai_routes(door: OpenAIDoor) -> APIRouter:
    """The router of the dialect."""
    router = APIRouter(prefix="/v1", tags=["openai"])
    router.add_api_route(
        "/chat/completions",
        door.chat_completions,
        methods=["POST"],
        response_model=None,
        **asking(
            ChatCompletionRequest,
            EXAMPLE,
            schemas.ChatCompletion,
            error=schemas.ErrorResponse,
            events="With `stream`: events with a `chat.completion.chunk` each, then `[DONE]`.",
        ),
    )
    for path, handler, schema, statuses in (
        ("/models", door.models, schemas.ModelList, READING),
        ("/models/{name:path}", door.model, schemas.Model, (*READING, 404, 422)),
    ):
        router.add_api_route(
            path,
            handler,
            methods=["GET"],
            response_model=None,
            responses=responses(reference(schema), *statuses, error=schemas.ErrorResponse),
        )
    return router


class OpenAIDoor:
    """Handlers of the dialect. Errors raised here are answered by `api.problems`."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._created = int(context.clock.now().timestamp())

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        await principal_of(request, self._context.authenticator)
        names = self._names()
        return JSONResponse({"object": "list", "data": [self._card(name) for name in names]})

    async def model(self, request: Request, name: str) -> Response:
        """`GET /v1/models/{name}`; slashes in a name may be escaped."""
        await principal_of(request, self._context.authenticator)
        self._check_model(name)
        return JSONResponse(self._card(name))

    async def chat_completions(self, request: Request) -> Response:
        """`POST /v1/chat/completions`, whole or streamed."""
        arrived = arrival(self._context.clock)
        principal = await principal_of(request, self._context.authenticator)
        config = self._context.config
        deadline = deadline_of(request, clock=self._context.clock, limit=config.answer_timeout)
        limit = config.max_body_bytes
        body = await read_json(request, ChatCompletionRequest, limit=limit)
        self._check_model(body.model)
        coding = body.model == self._context.config.coding_model
        generation = body.to_generation(
            task_type="coding" if coding else "general",
            request_id=request_id_of(request),
            session_id=session_id_of(request, longest=LONGEST_SESSION_ID),
            traceparent=traceparent_of(request),
            scope=principal.username,
        )
        if not body.stream:
            deadline = whole_deadline_of(request, deadline)
        ask = _Ask(
            request=request, generation=generation, body=body, deadline=deadline, arrived=arrived
        )
        serve = self._stream if body.stream else self._whole
        return AnswerResponse(lambda answer: serve(answer, ask))

    def _card(self, name: str) -> dict[str, Any]:
        return model_card(name, created=self._created)

    def _names(self) -> list[str]:
        config = self._context.config
        coding = [] if config.coding_model is None else [config.coding_model]
        return list(dict.fromkeys([config.model_name, *coding, MODEL_ALIAS]))

    def _check_model(self, name: str) -> None:
        if name not in self._names():
            served = ", ".join(map(repr, self._names()))
            detail = f"The model {name!r} does not exist here. Served: {served}."
            raise ModelUnknown(detail, param="model")

    async def _whole(self, answer: Answer, ask: _Ask) -> None:
        generation, body = ask.generation, ask.body
        fold = Fold(generation.sampling.n)
        entries: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        first_event = b""
        try:
            async with self._context.llm.open(generation, deadline=ask.deadline) as reply:
                overhead = ask.arrived.overhead(reply.route)
                async for first in reply:
                    first_event = first_event or first.raw
                    for chunk in (first, *reply.chunks.ready()):
                        fold.add(chunk)
                        if chunk.logprobs:
                            entries[chunk.index] += logprob_entries(chunk)
                completion = fold.completion(reply.origin)
                fixed = answer_headers(
                    generation.request_id,
                    route=reply.route,
                    origin=reply.origin,
                    overhead=overhead,
                )
        except MongarsError as error:
            await self._problem(answer, error, ask)
            return
        whole = completion_body(
            completion,
            answer_id=f"chatcmpl-{generation.request_id}",
            created=int(self._context.clock.now().timestamp()),
            logprobs=entries if body.logprobs else None,
            fingerprint=fingerprint_in(first_event),
        )
        await answer.json(200, whole, fixed)

    async def _stream(self, answer: Answer, ask: _Ask) -> None:
        generation, body = ask.generation, ask.body
        try:
            async with self._context.llm.open(generation, deadline=ask.deadline) as reply:
                fixed = answer_headers(
                    generation.request_id,
                    route=reply.route,
                    origin=reply.origin,
                    overhead=ask.arrived.overhead(reply.route),
                )
                await answer.start(200, {**EVENT_STREAM_HEADERS, **fixed})
                relay = Relay(
                    answer_id=f"chatcmpl-{generation.request_id}",
                    created=int(self._context.clock.now().timestamp()),
                    model=reply.origin.model,
                    with_usage=bool(body.stream_options and body.stream_options.include_usage),
                )
                async for chunk in reply:
                    come = (chunk, *reply.chunks.ready())
                    moved_to = reply.origin.model if reply.chunks.moves else None
                    if block := relay.events(come, moved_to=moved_to):
                        await answer.write(block)
                await answer.write(relay.end())
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
        fixed = problem_headers(error, ask.generation.request_id, chose_wait=chosen)
        await answer.json(status_of(error), openai_body(error), fixed)
