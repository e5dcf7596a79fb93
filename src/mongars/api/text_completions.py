"""The route of OpenAI's older completions API: `/v1/completions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from mongars.api import schemas
from mongars.api.description import answering
from mongars.api.dialect import RouteTable
from mongars.api.error_formats import OPENAI_ERRORS
from mongars.api.models import MODEL_ALIAS, ServedModels
from mongars.api.naming_fields import naming_fields
from mongars.api.serve_answer import serve_answer
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.asgi import EVENT_STREAM_HEADERS
from mongars.protocol.body import parse_model
from mongars.protocol.completions import (
    FIELD_NAMES,
    ChoiceWriter,
    CompletionRequest,
    text_body,
    with_usage,
)
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from fastapi.responses import Response

    from mongars.api.context import ApiContext
    from mongars.api.dialect import ArrivedRequest
    from mongars.conversation.chat import GeneratedStream
    from mongars.core.deadline import Deadline
    from mongars.core.generation import Chunk, GenerationRequest

EXAMPLE = {"model": MODEL_ALIAS, "prompt": "Say hello."}


def completions_routes(context: ApiContext) -> RouteTable:
    """The route table of `/v1/completions`."""
    dialect = Completions(context)
    router = APIRouter(prefix="/v1", tags=["openai"])

    async def completions(request: Request) -> Response:
        """Answer a `prompt`, as OpenAI's `/v1/completions` does: one JSON object, or a stream if `stream` is true.

        The prompt is sent to the model as one user message.
        """
        return await serve_answer(request, context, dialect)

    router.add_api_route(
        "/completions",
        completions,
        methods=["POST"],
        response_model=None,
        **answering(
            CompletionRequest,
            EXAMPLE,
            schemas.TextCompletion,
            error=schemas.ErrorResponse,
            events="With `stream`: events with a `text_completion` each, then `[DONE]`.",
        ),
    )
    return RouteTable(
        router=router,
        prefix="/v1",
        errors=OPENAI_ERRORS,
        models=(CompletionRequest, schemas.TextCompletion, schemas.ErrorResponse),
    )


class Completions:
    """The dialect of `/v1/completions` (implements `Dialect`).

    It parses request bodies and names the error format and stream headers.
    """

    errors = OPENAI_ERRORS
    stream_headers = EVENT_STREAM_HEADERS

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._models = ServedModels(context.config)

    def read(self, body: bytes, arrived: ArrivedRequest) -> CompletionCall:
        """Parse `body`, the whole JSON body of the request `arrived`.

        Raises `InvalidRequest` for an invalid body or a header `x-session-id` of more than 200 characters,
        `ModelUnknown` for a model that is not served, and `PromptMissing` for a blank prompt.
        """
        read = parse_model(body, CompletionRequest)
        self._models.check(read.model)
        generation = arrived.to_generation(
            read.to_messages(),
            sampling=read.to_sampling(),
            task_type=self._models.task_type(read.model),
            adapter=read.adapter,
        )
        return CompletionCall(self._context, read, generation)


class CompletionCall:
    """One parsed request of `/v1/completions` (implements `AnswerCall`).

    `streamed`: whether the client requested a stream.
    """

    def __init__(
        self, context: ApiContext, read: CompletionRequest, generation: GenerationRequest
    ) -> None:
        self._context = context
        self._read = read
        self._generation = generation
        self.streamed = read.stream

    def open(self, deadline: Deadline) -> AbstractAsyncContextManager[GeneratedStream]:
        """A context manager that gives the stream of the started answer; entering it waits for the first token.

        `deadline`: the time by which the answer must be complete. Raises a `MongarsError` if no provider has started
        the answer by then. If it passes later, or the answer breaks, reading the stream raises
        `GenerationInterrupted`. Leaving stops the generation, unless identical requests share it.
        """
        return naming_fields(
            self._context.llm.open(self._generation, deadline=deadline), FIELD_NAMES
        )

    def body_writer(self, stream: GeneratedStream) -> CompletionWriter:
        """A new writer that builds one `text_completion` object from the chunks of `stream`."""
        return self._writer(stream)

    def event_writer(self, stream: GeneratedStream) -> CompletionWriter:
        """A new writer that encodes each chunk of `stream` as a `text_completion` event."""
        return self._writer(stream)

    def _writer(self, stream: GeneratedStream) -> CompletionWriter:
        named = {
            "answer_id": f"cmpl-{self._generation.request_id}",
            "created": int(self._context.clock.now().timestamp()),
        }
        return CompletionWriter(self._read, stream, named)


class CompletionWriter:
    """Writes one answer as a `text_completion` object or as server-sent events with such objects.

    The model's reasoning is left out: the protocol has no field for it.
    """

    def __init__(
        self, read: CompletionRequest, stream: GeneratedStream, named: dict[str, Any]
    ) -> None:
        """`read` is the parsed request, `stream` the answer to write.

        `named` contains the fields `answer_id` and `created` (Unix seconds) of the response, or of every event.
        """
        options = read.stream_options
        self._counted = bool(options and options.include_usage)
        self._stream = stream
        self._named = named
        choices = read.n or 1
        alternatives = (read.top_logprobs or 0) if read.logprobs else None
        self._answer = AnswerAccumulator(choices)
        self._choices = [ChoiceWriter(index, alternatives=alternatives) for index in range(choices)]

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Append chunks of the answer, for `body`."""
        for chunk in chunks:
            self._answer.add(chunk)
            self._choices[chunk.index].add(chunk)

    def body(self) -> dict[str, Any]:
        """The JSON body of the response, for all added chunks. Raises `InvalidAnswer` if a choice is not finished."""
        whole = self._answer.completion(self._stream.origin)
        choices = [
            writer.whole(choice.text, choice.finish_reason)
            for writer, choice in zip(self._choices, whole.choices, strict=True)
        ]
        body = self._object(choices)
        return body if whole.usage is None else with_usage(body, whole.usage)

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        """The bytes to send for these chunks: an event for each with text, log-probabilities or a finish reason.

        Empty if no chunk has any.
        """
        events = b""
        for chunk in chunks:
            self._answer.add(chunk)
            if chunk.text or chunk.logprobs or chunk.finish_reason is not None:
                body = self._object([self._choices[chunk.index].piece(chunk)])
                events += encode_event(with_usage(body, None) if self._counted else body)
        return events

    def end(self) -> bytes:
        """The last bytes of the stream: `[DONE]`, after an event with token counts if the client requested them.

        That event is left out if no chunk had token counts.
        """
        usage = self._answer.usage
        if usage is None or not self._counted:
            return DONE
        return encode_event(with_usage(self._object([]), usage)) + DONE

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return text_body(choices, model=self._stream.origin.model, **self._named)
