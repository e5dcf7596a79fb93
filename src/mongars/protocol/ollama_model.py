"""Requests for one model on an Ollama server, and the meaning of the responses; without input or output.

The Ollama engine and the Ollama provider send these requests, each over its own connections.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from mongars.core.errors import (
    InferenceFailed,
    InvalidAnswer,
    MongarsError,
    NotReady,
    Overloaded,
)
from mongars.protocol.body import encode, json_object
from mongars.protocol.ollama import (
    chat_request,
    models_in,
    origin_named,
    overflow_in,
    same_model,
)

if TYPE_CHECKING:
    from mongars.core.control_tokens import Markers
    from mongars.core.generation import GenerationRequest, Origin

CHAT = "api/chat"
SHOW = "api/show"
TAGS = "api/tags"
BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


class OllamaModelApi:
    """Request bodies for one model of an Ollama server, and exceptions for the server's responses. Sends nothing."""

    def __init__(self, name: str, *, server: str) -> None:
        """`name`: the model's name, with or without a tag. `server`: host and port for error messages, without credentials."""
        self.name = name
        self._server = server

    @property
    def origin(self) -> Origin:
        """The `Origin` of answers by this model: its name as configured, without an adapter."""
        return origin_named(self.name)

    def chat_body(
        self, request: GenerationRequest, *, markers: Markers, context_tokens: int | None
    ) -> bytes:
        """The body of `POST /api/chat` for a streamed answer of this model, as encoded JSON.

        `context_tokens`: size of the context window to load; None for the server's default. `markers`: the model's
        control tokens, which are interrupted by an invisible character (`SEPARATOR`) in the messages, so that they are
        read as text. Raises `ParameterUnsupported` for a parameter that Ollama does not support.
        """
        body = chat_request(request, model=self.name, markers=markers)
        if context_tokens is not None:
            body["options"]["num_ctx"] = context_tokens
        return encode(body)

    def show_body(self, *, verbose: bool) -> bytes:
        """The body of `POST /api/show`, which requests the model's description, as encoded JSON.

        `verbose`: request the vocabulary too, from which `markers_in` reads the control tokens.
        """
        return encode({"model": self.name, "verbose": verbose})

    def check_tags(self, status: int, data: bytes) -> None:
        """Check that a response of `GET /api/tags` is from an Ollama server that has the model.

        `status`: the HTTP status, `data`: the body of the response. Names are compared exactly, case included; one
        without a tag has the tag `latest`.

        Raises:
            InvalidAnswer: it is not the response of an Ollama server, or its status is not 200.
            NotReady: the server does not have the model.
        """
        try:
            names = models_in(json_object(data)) if status == HTTPStatus.OK else None
        except InvalidAnswer:
            names = None
        if names is None:
            detail = f"What answers at {self._server} (status {status}) is not an Ollama."
            raise InvalidAnswer(detail)
        if not any(same_model(self.name, name) for name in names):
            raise self.missing()

    def missing(self, *, retry_after: float | None = None) -> NotReady:
        """The error to raise if the server does not have the model; its message names the command `ollama pull`.

        `retry_after`: seconds until a retry makes sense; None if unknown.
        """
        detail = (
            f"Ollama at {self._server} has no model {self.name!r}."
            f" Get it with: ollama pull {self.name}"
        )
        return NotReady(detail, retry_after=retry_after)

    def refusal(
        self, status: int, data: bytes, *, retry_after: float | None, context_tokens: int = 0
    ) -> MongarsError:
        """The error for a response of `POST /api/chat` with the body `data` and a status other than 200.

        `NotReady` for 404, `Overloaded` for 429 and 503, `ContextLengthExceeded` for 400 if the prompt is too long,
        else `InferenceFailed`. `retry_after`: seconds from the response's header, None without it. `context_tokens`:
        size of the loaded context window in tokens, used if the server does not report it; 0 if unknown.
        """
        message = error_text(data)
        if status == HTTPStatus.NOT_FOUND:
            return self.missing(retry_after=retry_after)
        if status in BUSY:
            detail = f"Ollama at {self._server} is busy: {message}"
            return Overloaded(detail, retry_after=retry_after)
        failed = InferenceFailed(f"Ollama at {self._server} returned {status}: {message}")
        if status == HTTPStatus.BAD_REQUEST:
            return overflow_in(message, context_tokens=context_tokens) or failed
        return failed


def error_text(data: bytes) -> str:
    """The text in the field `error` of an error response; empty if there is none or the body is not a JSON object."""
    try:
        return str(json_object(data).get("error") or "")
    except InvalidAnswer:
        return ""
