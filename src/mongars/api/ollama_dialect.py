"""Ollama's API: parsing requests of `/api/chat` and `/api/generate`, and writing their responses.

The durations in a response are measured here: `load_duration` is the gateway's own time before the first token,
including queues and retries; `prompt_eval_duration` the time spent waiting for model servers before the first
token; `eval_duration` the time after it. They add up to `total_duration`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from fastapi.responses import JSONResponse

from mongars.api.models import ServedModels
from mongars.api.naming_fields import naming_fields
from mongars.core.errors import ModelUnknown
from mongars.protocol import ollama_responses as responses
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.asgi import stream_headers
from mongars.protocol.body import parse_model
from mongars.protocol.ollama import same_model, tagged
from mongars.protocol.openai import logprob_entries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from fastapi.responses import Response

    from mongars.api.context import ApiContext
    from mongars.api.dialect import ArrivedRequest
    from mongars.conversation.chat import GeneratedStream
    from mongars.core.deadline import Deadline
    from mongars.core.errors import MongarsError
    from mongars.core.generation import Chunk, GenerationRequest
    from mongars.protocol.ollama_requests import OllamaRequest


class OllamaErrors:
    """Ollama's error format: `{"error": text}`, also as the last line of a stream that failed.

    The HTTP status of an invalid request is 400.
    """

    invalid_status = int(HTTPStatus.BAD_REQUEST)

    def body(self, error: MongarsError) -> object:
        """The JSON object `{"error": text}` with the error's text."""
        return {"error": str(error)}

    def event(self, error: MongarsError) -> bytes:
        """The last line of a stream that failed, with the object of `body`. No line with `done: true` follows it."""
        return _line(self.body(error))


OLLAMA_ERRORS = OllamaErrors()


def _line(found: object) -> bytes:
    return orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)


class OllamaModels:
    """Finds served models by Ollama's names, where `name` and `name:latest` are the same; case matters.

    `names` (text-generating models) and `listed` (all models) are the names that clients are shown, each with its tag.
    """

    def __init__(self, context: ApiContext) -> None:
        self._served = ServedModels(context.config)
        self.names = tuple(tagged(name) for name in self._served.names)
        """Every name of a text-generating model, with its tag (`name:latest`)."""
        self.listed = tuple(tagged(name) for name in self._served.listed)
        """Every model name, with its tag (`name:latest`); that of the embedding model last."""

    def find(self, name: str) -> str:
        """The served text-generating model that `name` means, with or without `:latest`: its configured name.

        The alias `mongars` is returned as such. Raises `ModelUnknown` if there is none; case matters.
        """
        return self._find(name, self._served.names)

    def find_listed(self, name: str) -> str:
        """The served model, text or embedding, that `name` means, with or without `:latest`: its configured name.

        The alias `mongars` is returned as such. Raises `ModelUnknown` if there is none; case matters.
        """
        return self._find(name, self._served.listed)

    def find_embedding(self, name: str) -> str:
        """The embedding model's configured name, if `name` is that name, `mongars` or empty.

        `:latest` may follow the name; case matters. Raises `ModelUnknown` for any other name, and if no embedding model
        is served.
        """
        return self._served.find_embedding(name, same=same_model)

    def gives_embeddings(self, served: str) -> bool:
        """Whether the model `served`, a name that `find_listed` returned, computes embeddings but generates no text."""
        return served not in self._served.names

    def _find(self, name: str, among: Sequence[str]) -> str:
        for served in among:
            if same_model(name, served):
                return served
        detail = f"model '{name}' not found"
        if any(same_model(name, served) for served in self._served.listed):
            detail = f"model '{name}' gives embeddings only and generates no text"
        raise ModelUnknown(detail, param="model")

    def task_type(self, served: str) -> str:
        """The model role that serves the model `served`: `coding` for the coding model, else `general`.

        `served` is a name that `find` returned.
        """
        return self._served.task_type(served)


class OllamaDialect:
    """The dialect of `/api/chat` or `/api/generate` (implements `Dialect`).

    It parses request bodies and names the error format and stream headers. `request` is the class of the request body,
    and so decides which of the two routes it is.
    """

    errors = OLLAMA_ERRORS
    stream_headers = stream_headers(responses.MEDIA_TYPE)

    def __init__(self, context: ApiContext, request: type[OllamaRequest]) -> None:
        self._context = context
        self._request = request
        self._models = OllamaModels(context)

    def read(self, body: bytes, arrived: ArrivedRequest) -> OllamaCall | Response:
        """Parse the JSON body of a request.

        Returns a `Response` that confirms that the model is loaded if the list of messages is empty, or the prompt
        empty or absent: Ollama's clients send that to load a model, and models are loaded already. Raises
        `PromptMissing` if there is a prompt or message, but only white space in it, `InvalidRequest` for an invalid
        body or a session id of more than 200 characters in the headers, and `ModelUnknown` for a model that is not
        served.
        """
        read = parse_model(body, self._request)
        served = self._models.find(read.model)
        if read.loads:
            now = responses.timestamp(self._context.clock.now())
            loaded = responses.part_body(read.content(""), model=served, created_at=now, done=True)
            return JSONResponse({**loaded, **responses.done_fields("load")})
        generation = arrived.to_generation(
            read.to_messages(),
            sampling=read.to_sampling(),
            task_type=self._models.task_type(served),
            adapter=read.adapter,
        )
        return OllamaCall(self._context, read, generation, arrived=arrived)


class OllamaCall:
    """One parsed request of `/api/chat` or `/api/generate` (implements `AnswerCall`).

    `streamed`: whether the client requested a stream.
    """

    def __init__(
        self,
        context: ApiContext,
        read: OllamaRequest,
        generation: GenerationRequest,
        *,
        arrived: ArrivedRequest,
    ) -> None:
        self._context = context
        self._read = read
        self._generation = generation
        self._arrived = arrived
        self.streamed = read.stream

    def open(self, deadline: Deadline) -> AbstractAsyncContextManager[GeneratedStream]:
        """A context manager that gives the stream of the started answer; entering it waits for the first token.

        `deadline`: the time by which the answer must be complete. Raises a `MongarsError` if no provider has started
        the answer by then. If it passes later, or the answer breaks, reading the stream raises
        `GenerationInterrupted`. Leaving stops the generation, unless identical requests share it.
        """
        return naming_fields(
            self._context.llm.open(self._generation, deadline=deadline), self._read.field_names
        )

    def body_writer(self, stream: GeneratedStream) -> OllamaWriter:
        """A new writer that builds one JSON object from the chunks of `stream`."""
        return OllamaWriter(self._read, stream, self._arrived)

    def event_writer(self, stream: GeneratedStream) -> OllamaWriter:
        """A new writer that encodes the chunks of `stream` as lines, each with one JSON object."""
        return OllamaWriter(self._read, stream, self._arrived)


class OllamaWriter:
    """Writes one answer in Ollama's format, as one JSON object or as a line with one JSON object per chunk.

    Create it when the first token has arrived: the reported `eval_duration` starts then. `arrived` is the request,
    whose time of arrival starts the other durations.
    """

    def __init__(
        self, read: OllamaRequest, stream: GeneratedStream, arrived: ArrivedRequest
    ) -> None:
        self._read = read
        self._stream = stream
        self._arrival = arrived.arrival
        self._clock = arrived.arrival.clock
        self._began = self._clock.monotonic()
        self._waited = min(stream.route.waited, self._began - self._arrival.at)
        self._answer = AnswerAccumulator()
        self._entries: list[dict[str, Any]] = []

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Append chunks of the answer, for `body`."""
        for chunk in chunks:
            self._answer.add(chunk)
            if self._read.logprobs:
                self._entries += logprob_entries(chunk)

    def body(self) -> dict[str, Any]:
        """The JSON body of the response, for all added chunks. Raises `InvalidAnswer` without a finish reason."""
        (choice,) = self._answer.completion(self._stream.origin).choices
        content = self._read.content(choice.text, self._shown(choice.reasoning))
        return {**self._part(content, self._entries, done=True), **self._done()}

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        """The lines to send for these chunks: one for each with text, reasoning or log-probabilities; may be empty."""
        lines = b""
        for chunk in chunks:
            self._answer.add(chunk)
            entries = logprob_entries(chunk) if self._read.logprobs else []
            thinking = self._shown(chunk.reasoning)
            if chunk.text or entries or thinking:
                lines += _line(self._part(self._read.content(chunk.text, thinking), entries))
        return lines

    def end(self) -> bytes:
        """The last line of the stream of a complete answer: `done: true`, durations and token counts."""
        return _line({**self._part(self._read.content(""), [], done=True), **self._done()})

    def _shown(self, thinking: str) -> str:
        return "" if self._read.think is False else thinking

    def _part(
        self, content: dict[str, Any], entries: list[dict[str, Any]], *, done: bool = False
    ) -> dict[str, Any]:
        if entries:
            content = {**content, "logprobs": entries}
        return responses.part_body(
            content,
            model=self._stream.origin.model,
            created_at=responses.timestamp(self._clock.now()),
            done=done,
        )

    def _done(self) -> dict[str, Any]:
        now = self._clock.monotonic()
        durations = {
            "total_duration": now - self._arrival.at,
            "load_duration": self._began - self._arrival.at - self._waited,
            "prompt_eval_duration": self._waited,
            "eval_duration": now - self._began,
        }
        reason = self._answer.finish_reason or "stop"
        return responses.done_fields(reason, usage=self._answer.usage, durations=durations)
