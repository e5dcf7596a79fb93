"""Server side of Ollama's protocol: the bodies of its requests; `protocol.ollama` is the client side.

A parameter that affects the answer is either applied or refused by name. Parameters about memory and speed,
such as `keep_alive`, `num_ctx` and `num_gpu`, are ignored. So are `truncate` and `shift`: a prompt longer
than the context window is always refused.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
from pydantic import BeforeValidator, Field, model_validator

from mongars.core.generation import Message, Sampling
from mongars.protocol.adapter_field import DemandsAdapter
from mongars.protocol.messages import CalledFunction, ChatMessage, ToolCall, prompt_messages
from mongars.protocol.parameters import GENERATION_REFUSED, RefusedParameter
from mongars.protocol.response_format import check_response_format
from mongars.protocol.sampling_fields import (
    MAX_TOKENS_LIMIT,
    DrawingFields,
    check_top_logprobs,
    token_limit,
)
from mongars.protocol.sampling_table import Parameter, SamplingReader, parameters_of
from mongars.protocol.wire_model import WireModel

_IMAGES = RefusedParameter(reason="images are not supported; send text", neutral=([],))
_TEMPLATE = "the prompt is written by the model's own template; leave it out"

CHAT_REFUSED: dict[str, RefusedParameter] = {
    "images": _IMAGES,
    "tools": RefusedParameter(reason="tools are not called yet; leave it out", neutral=([],)),
    "template": RefusedParameter(reason=_TEMPLATE, neutral=("",)),
    "raw": RefusedParameter(reason=_TEMPLATE, neutral=(False,)),
    "suffix": RefusedParameter(reason="text is not filled in before a suffix", neutral=("",)),
    "context": RefusedParameter(reason="send the earlier messages to /api/chat", neutral=([],)),
    "width": RefusedParameter(reason="images are not generated; leave it out", neutral=(0,)),
    "height": RefusedParameter(reason="images are not generated; leave it out", neutral=(0,)),
    "steps": RefusedParameter(reason="images are not generated; leave it out", neutral=(0,)),
}
"""The request fields that are refused, with the reason. Null and empty values of these are accepted."""

OPTIONS_REFUSED: dict[str, RefusedParameter] = {
    name: GENERATION_REFUSED[name] for name in ("mirostat", "repeat_last_n", "tfs_z", "typical_p")
}
"""The fields of `options` that are refused, with the reason."""


def _format(value: object) -> object:
    """Convert the field `format` (empty, `json` or a JSON Schema) to an OpenAI `response_format`; None if it is empty.

    Raises `ValueError` for another value, or for an invalid or too large schema.
    """
    if value == "":
        return None
    if value == "json":
        return {"type": "json_object"}
    if not isinstance(value, dict):
        message = "must be 'json' or a JSON Schema"
        raise ValueError(message)  # noqa: TRY004 (pydantic turns a ValueError into its message)
    found = {"type": "json_schema", "json_schema": {"name": "format", "schema": value}}
    check_response_format(found)
    return found


def _thinking(value: object) -> object:
    if not isinstance(value, bool | str):
        message = "must be true, false or a level"
        raise ValueError(message)  # noqa: TRY004 (pydantic turns a ValueError into its message)
    return value


Format = Annotated[
    dict[str, Any] | None,
    BeforeValidator(_format, json_schema_input_type=Literal["", "json"] | dict[str, Any]),
]
Thinking = Annotated[bool | str, BeforeValidator(_thinking, json_schema_input_type=bool | str)]


class OllamaOptions(DrawingFields):
    """The field `options` of a request to Ollama's API: the sampling parameters."""

    refused: ClassVar[dict[str, RefusedParameter]] = OPTIONS_REFUSED

    num_predict: Annotated[int | None, Parameter("max_tokens", read=token_limit)] = Field(
        default=None, ge=-2, le=MAX_TOKENS_LIMIT
    )
    """Maximum number of tokens of the answer; 0 or less for the server's limit."""


_OPTIONS = SamplingReader(parameters_of(OllamaOptions))


class OllamaFunction(WireModel):
    """The function that a tool call names: its name, and its arguments as a JSON object."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class OllamaToolCall(WireModel):
    """A tool call in an assistant's message in Ollama's format."""

    function: OllamaFunction


class OllamaMessage(WireModel):
    """A message in the body of Ollama's `POST /api/chat`."""

    refused: ClassVar[dict[str, RefusedParameter]] = {"images": _IMAGES}

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[OllamaToolCall] = Field(default_factory=list, fail_fast=True)
    tool_name: str = ""

    def as_chat(self) -> ChatMessage:
        """This message in OpenAI's format, with the arguments of tool calls as JSON strings."""
        calls = [
            ToolCall(
                id=f"{index}:{call.function.name}",
                function=CalledFunction(
                    name=call.function.name,
                    arguments=orjson.dumps(call.function.arguments).decode(),
                ),
            )
            for index, call in enumerate(self.tool_calls)
        ]
        return ChatMessage(
            role=self.role, content=self.content, tool_calls=calls, name=self.tool_name
        )


class OllamaRequest(DemandsAdapter):
    """Base class: what the bodies of Ollama's `POST /api/chat` and `POST /api/generate` have in common."""

    refused: ClassVar[dict[str, RefusedParameter]] = CHAT_REFUSED

    field_names: ClassVar[dict[str, str]] = {"response_format": "format", "stop": "options.stop"}
    """Fields of OpenAI's chat protocol that errors name, and the field of this request in its place."""

    model: str = Field(min_length=1)
    stream: bool = True
    format: Format = None
    options: OllamaOptions = Field(default_factory=OllamaOptions)
    think: Thinking = True
    """`false` removes the model's reasoning from the response; other values have no effect."""
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _rated(self) -> Self:
        check_top_logprobs(self.top_logprobs, logprobs=self.logprobs)
        return self

    @property
    @abstractmethod
    def loads(self) -> bool:
        """Whether the request has nothing to answer: Ollama's clients send such a request to load a model."""

    @abstractmethod
    def to_messages(self) -> tuple[Message, ...]:
        """The conversation in this request as messages for the model. Raises `PromptMissing` if no message has text."""

    @abstractmethod
    def content(self, text: str, thinking: str = "") -> dict[str, Any]:
        """The response fields, in Ollama's format, with the answer's `text` and the model's reasoning `thinking`.

        Keys: `message` for `/api/chat`, `response` and `thinking` for `/api/generate`. An empty `thinking` is left out.
        """

    def to_sampling(self) -> Sampling:
        """The sampling parameters of this request as a `Sampling`."""
        return Sampling(
            **_OPTIONS.read(self.options.__dict__),
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs if self.logprobs else None,
            response_format=self.format,
        )


class OllamaChatRequest(OllamaRequest):
    """The body of Ollama's `POST /api/chat`."""

    messages: list[OllamaMessage] = Field(default_factory=list, fail_fast=True)

    @property
    def loads(self) -> bool:
        """Whether there are no messages to answer, so that the request only loads the model."""
        return not self.messages

    def to_messages(self) -> tuple[Message, ...]:
        """The field `messages` as messages for the model. Raises `PromptMissing` if none of them has text."""
        return prompt_messages([message.as_chat() for message in self.messages])

    def content(self, text: str, thinking: str = "") -> dict[str, Any]:
        """The response field `message`: an object with `role`, `content` and, if there is any reasoning, `thinking`.

        `text`: the answer's text, sent as `content`.
        """
        message = {"role": "assistant", "content": text}
        return {"message": {**message, "thinking": thinking} if thinking else message}


class OllamaGenerateRequest(OllamaRequest):
    """The body of Ollama's `POST /api/generate`; its prompt becomes one user message."""

    field_names: ClassVar[dict[str, str]] = {**OllamaRequest.field_names, "messages": "prompt"}

    prompt: str = ""
    system: str = ""

    @property
    def loads(self) -> bool:
        """Whether the prompt is empty, so that the request only loads the model."""
        return not self.prompt

    def to_messages(self) -> tuple[Message, ...]:
        """The prompt as a user message, after the system prompt if there is one.

        Raises `PromptMissing` if the prompt is blank.
        """
        found = prompt_messages([ChatMessage(role="user", content=self.prompt)], field="prompt")
        return (Message(role="system", content=self.system), *found) if self.system else found

    def content(self, text: str, thinking: str = "") -> dict[str, Any]:
        """The response fields `response` (the answer's text) and, if there is any reasoning, `thinking`."""
        return {"response": text, "thinking": thinking} if thinking else {"response": text}


class OllamaShowRequest(WireModel):
    """The body of Ollama's `POST /api/show`, for a model's description; `name` is the older name of `model`."""

    model: str = ""
    name: str = ""

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if not self.named:
            message = "model: must name a model"
            raise ValueError(message)
        return self

    @property
    def named(self) -> str:
        """The name of the model: the field `model`, or `name` if that is empty."""
        return self.model or self.name
