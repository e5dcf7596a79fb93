"""The routes of OpenAI's chat API, `/v1/chat/completions` and `/v1/models`, and its requests and responses."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from mongars.api import schemas
from mongars.api.description import READING, answering, reference, responses
from mongars.api.dialect import RouteTable
from mongars.api.error_formats import OPENAI_ERRORS
from mongars.api.models import MODEL_ALIAS, ServedModels
from mongars.api.relay import Relay
from mongars.api.requests import principal_of
from mongars.api.serve_answer import serve_answer
from mongars.conversation.chat import GeneratedStream
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.asgi import EVENT_STREAM_HEADERS
from mongars.protocol.body import parse_model
from mongars.protocol.openai import (
    ChatCompletionRequest,
    completion_body,
    fingerprint_in,
    logprob_entries,
    model_card,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from mongars.api.context import ApiContext
    from mongars.api.dialect import ArrivedRequest
    from mongars.core.deadline import Deadline
    from mongars.core.generation import Chunk, GenerationRequest

CHAT_COMPLETIONS = "/v1/chat/completions"
EXAMPLE = {"model": MODEL_ALIAS, "messages": [{"role": "user", "content": "Say hello."}]}


class ChatCompletionsRoutes:
    """Handlers of `/v1/chat/completions` and `/v1/models`."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._created = int(context.clock.now().timestamp())
        self._models = ServedModels(context.config)
        self._dialect = ChatCompletions(context)

    def table(self) -> RouteTable:
        """The routes with these handlers, OpenAI's error format, and the models of the OpenAPI description."""
        router = APIRouter(prefix="/v1", tags=["openai"])
        router.add_api_route(
            "/chat/completions",
            self.chat_completions,
            methods=["POST"],
            response_model=None,
            **answering(
                ChatCompletionRequest,
                EXAMPLE,
                schemas.ChatCompletion,
                error=schemas.ErrorResponse,
                events="With `stream`: events with a `chat.completion.chunk` each, then `[DONE]`.",
            ),
        )
        for path, handler, schema, statuses in (
            ("/models", self.models, schemas.ModelList, READING),
            ("/models/{name:path}", self.model, schemas.Model, (*READING, 404, 422)),
        ):
            router.add_api_route(
                path,
                handler,
                methods=["GET"],
                response_model=None,
                responses=responses(reference(schema), *statuses, error=schemas.ErrorResponse),
            )
        return RouteTable(
            router=router,
            prefix="/v1",
            errors=OPENAI_ERRORS,
            models=(
                ChatCompletionRequest,
                schemas.ChatCompletion,
                schemas.ErrorResponse,
                schemas.ModelList,
            ),
        )

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`: list every served model, in OpenAI's format."""
        await principal_of(request, self._context.authenticator)
        cards = [self._card(name) for name in self._models.listed]
        return JSONResponse({"object": "list", "data": cards})

    async def model(self, request: Request, name: str) -> Response:
        """`GET /v1/models/{name}`: one model, in OpenAI's format; 404 if no served model has exactly this name.

        Slashes in its name may be percent-encoded.
        """
        await principal_of(request, self._context.authenticator)
        self._models.check_listed(name)
        return JSONResponse(self._card(name))

    async def chat_completions(self, request: Request) -> Response:
        """`POST /v1/chat/completions`: answer a conversation, with request and response bodies as OpenAI defines them.

        The response is a stream of server-sent events if the body's field `stream` is true, else one JSON object.
        Needs an API key or a login token. Errors have OpenAI's error body.
        """
        return await serve_answer(request, self._context, self._dialect)

    def _card(self, name: str) -> dict[str, Any]:
        return model_card(name, created=self._created)


class _Moves(Protocol):
    @property
    def moves(self) -> int:
        """The number of times another endpoint continued the broken answer; 0: never."""
        ...


class MovingStream(GeneratedStream, Protocol):
    """Interface of the stream of an answer that another endpoint may continue if the first one fails."""

    @property
    def chunks(self) -> _Moves:
        """The chunks of the answer, with `moves`: the number of times another endpoint continued the answer."""
        ...


class ChatCompletions:
    """The dialect of `/v1/chat/completions` (implements `Dialect`).

    It parses request bodies and names the error format and stream headers.
    """

    errors = OPENAI_ERRORS
    stream_headers = EVENT_STREAM_HEADERS

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._models = ServedModels(context.config)

    def read(self, body: bytes, arrived: ArrivedRequest) -> ChatCompletionCall:
        """Parse `body`, the whole JSON body of the request `arrived`.

        Raises `InvalidRequest` for an invalid body or a header `x-session-id` of more than 200 characters,
        `ModelUnknown` for a model that is not served, and `PromptMissing` if no message has text.
        """
        read = parse_model(body, ChatCompletionRequest)
        self._models.check(read.model)
        generation = arrived.to_generation(
            read.to_messages(),
            sampling=read.to_sampling(max_tokens=read.max_completion_tokens),
            task_type=self._models.task_type(read.model),
            adapter=read.adapter,
        )
        return ChatCompletionCall(self._context, read, generation)


class ChatCompletionCall:
    """One parsed request of `/v1/chat/completions` (implements `AnswerCall`).

    `streamed`: whether the client requested a stream.
    """

    def __init__(
        self, context: ApiContext, read: ChatCompletionRequest, generation: GenerationRequest
    ) -> None:
        self._context = context
        self._read = read
        self._generation = generation
        self.streamed = read.stream

    @property
    def answer_id(self) -> str:
        """The id that the response gives the answer if the model server reports none, made from the request id."""
        return f"chatcmpl-{self._generation.request_id}"

    @property
    def created(self) -> int:
        """The current time in Unix seconds, for the field `created` of the response."""
        return int(self._context.clock.now().timestamp())

    def open(self, deadline: Deadline) -> AbstractAsyncContextManager[MovingStream]:
        """A context manager that gives the stream of the started answer; entering it waits for the first token.

        `deadline`: the time by which the answer must be complete. Raises a `MongarsError` if no provider has started
        the answer by then. If it passes later, or the answer breaks, reading the stream raises
        `GenerationInterrupted`. Leaving stops the generation, unless identical requests share it.
        """
        return self._context.llm.open(self._generation, deadline=deadline)

    def body_writer(self, stream: MovingStream) -> _ChatCompletionBody:
        """A new writer that builds one `chat.completion` object from the chunks of `stream`."""
        return _ChatCompletionBody(self, stream, self._read, choices=self._generation.sampling.n)

    def event_writer(self, stream: MovingStream) -> _RelayedEvents:
        """A new writer of the events of a streamed response.

        It forwards the model server's events byte for byte, or writes new ones where those would be wrong, for example
        after another endpoint has continued the answer (`stream.chunks.moves`).
        """
        options = self._read.stream_options
        relay = Relay(
            answer_id=self.answer_id,
            created=self.created,
            model=stream.origin.model,
            with_usage=bool(options and options.include_usage),
        )
        return _RelayedEvents(relay, stream)


class _ChatCompletionBody:
    def __init__(
        self,
        call: ChatCompletionCall,
        stream: MovingStream,
        read: ChatCompletionRequest,
        *,
        choices: int,
    ) -> None:
        self._call = call
        self._stream = stream
        self._with_logprobs = bool(read.logprobs)
        self._answer = AnswerAccumulator(choices)
        self._entries: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        self._first_event = b""

    def add(self, chunks: Sequence[Chunk]) -> None:
        self._first_event = self._first_event or chunks[0].raw
        for chunk in chunks:
            self._answer.add(chunk)
            if chunk.logprobs:
                self._entries[chunk.index] += logprob_entries(chunk)

    def body(self) -> dict[str, Any]:
        return completion_body(
            self._answer.completion(self._stream.origin),
            answer_id=self._call.answer_id,
            created=self._call.created,
            logprobs=self._entries if self._with_logprobs else None,
            fingerprint=fingerprint_in(self._first_event),
        )


class _RelayedEvents:
    def __init__(self, relay: Relay, stream: MovingStream) -> None:
        self._relay = relay
        self._stream = stream

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        stream = self._stream
        moved_to = stream.origin.model if stream.chunks.moves else None
        return self._relay.events(chunks, moved_to=moved_to)

    def end(self) -> bytes:
        return self._relay.end()
