"""Requests of Ollama's protocol, as a server reads them; `protocol.ollama` is the client side.

Of a request, nothing that the answer depends on is dropped: it is
read, or refused by its name. Ignored are parameters about memory and speed, such as `keep_alive`,
`num_ctx` and `num_gpu`, and `truncate` and `shift`: a prompt that does not fit is always refused.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
from pydantic import BeforeValidator, Field, model_validator

from mongars.core.generation import Message, Sampling
from mongars.protocol.messages import CalledFunction, ChatMessage, ToolCall, prompt_messages
from mongars.protocol.parameters import GENERATION_REFUSED, Refused
from mongars.protocol.response_format import check_response_format
from mongars.protocol.sampling_fields import (
    MAX_TOKENS_LIMIT,
    DrawingFields,
    check_top_logprobs,
    token_limit,
)
from mongars.protocol.sampling_table import Parameter, SamplingReader, parameters_of
from mongars.protocol.wire_model import WireModel

_IMAGES = Refused(reason="images are not supported; send text", neutral=([],))
_TEMPLATE = "the prompt is written by the model's own template; leave it out"

CHAT_REFUSED: dict[str, Refused] = {
    "images": _IMAGES,
    "tools": Refused(reason="tools are not called yet; leave it out", neutral=([],)),
    "template": Refused(reason=_TEMPLATE, neutral=("",)),
    "raw": Refused(reason=_TEMPLATE, neutral=(False,)),
    "suffix": Refused(reason="text is not filled in before a suffix", neutral=("",)),
    "context": Refused(reason="send the earlier messages to /api/chat", neutral=([],)),
    "width": Refused(reason="images are not generated; leave it out", neutral=(0,)),
    "height": Refused(reason="images are not generated; leave it out", neutral=(0,)),
    "steps": Refused(reason="images are not generated; leave it out", neutral=(0,)),
}
"""Of a request. Null and empty values are accepted."""

OPTIONS_REFUSED: dict[str, Refused] = {
    name: GENERATION_REFUSED[name] for name in ("mirostat", "repeat_last_n", "tfs_z", "typical_p")
}
"""Of `options`."""


def _format(value: object) -> object:
    """The response format that `format` names. Raises `ValueError` for one that cannot be kept."""
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
    """`options` of a request."""

    refused: ClassVar[dict[str, Refused]] = OPTIONS_REFUSED

    num_predict: Annotated[int | None, Parameter("max_tokens", read=token_limit)] = Field(
        default=None, ge=-2, le=MAX_TOKENS_LIMIT
    )
    """The longest answer in tokens; 0 and less: the server's own limit."""


_OPTIONS = SamplingReader(parameters_of(OllamaOptions))


class OllamaFunction(WireModel):
    """What was called, and its arguments as an object."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class OllamaToolCall(WireModel):
    """A call in an assistant's message."""

    function: OllamaFunction


class OllamaMessage(WireModel):
    """A message of a chat."""

    refused: ClassVar[dict[str, Refused]] = {"images": _IMAGES}

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[OllamaToolCall] = Field(default_factory=list)
    tool_name: str = ""

    def as_chat(self) -> ChatMessage:
        """The same message as an OpenAI client would send it."""
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


class OllamaRequest(WireModel):
    """The fields that `/api/chat` and `/api/generate` have in common."""

    refused: ClassVar[dict[str, Refused]] = CHAT_REFUSED

    model: str = Field(min_length=1)
    stream: bool = True
    format: Format = None
    options: OllamaOptions = Field(default_factory=OllamaOptions)
    think: Thinking = True
    """A hint; `false` leaves the thinking of a model out of the response."""
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _rated(self) -> Self:
        check_top_logprobs(self.top_logprobs, logprobs=self.logprobs)
        return self

    @property
    @abstractmethod
    def loads(self) -> bool:
        """Whether this request holds nothing to answer: it only loads the model."""

    @abstractmethod
    def to_messages(self) -> tuple[Message, ...]:
        """The prompt. Raises `PromptMissing` when there is no text to answer."""

    @abstractmethod
    def content(self, text: str, thinking: str = "") -> dict[str, Any]:
        """The part of a response that holds a text, and what the model wrote while thinking."""

    def to_sampling(self) -> Sampling:
        """The sampling parameters in our own form."""
        return Sampling(
            **_OPTIONS.read(self.options.__dict__),
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs if self.logprobs else None,
            response_format=self.format,
        )


class OllamaChatRequest(OllamaRequest):
    """`POST /api/chat`."""

    messages: list[OllamaMessage] = Field(default_factory=list)

    @property
    def loads(self) -> bool:
        """Whether there is no message."""
        return not self.messages

    def to_messages(self) -> tuple[Message, ...]:
        """The conversation. Raises `PromptMissing`."""
        return prompt_messages([message.as_chat() for message in self.messages])

    def content(self, text: str, thinking: str = "") -> dict[str, Any]:
        """The assistant's message."""
        message = {"role": "assistant", "content": text}
        return {"message": {**message, "thinking": thinking} if thinking else message}


class OllamaGenerateRequest(OllamaRequest):
    """`POST /api/generate`. The prompt is one message of the user, as on `/generate`."""

    prompt: str = ""
    system: str = ""

    @property
    def loads(self) -> bool:
        """Whether the prompt is empty."""
        return not self.prompt

    def to_messages(self) -> tuple[Message, ...]:
        """The system prompt, if there is one, and the prompt. Raises `PromptMissing`."""
        found = prompt_messages([ChatMessage(role="user", content=self.prompt)], field="prompt")
        return (Message(role="system", content=self.system), *found) if self.system else found

    def content(self, text: str, thinking: str = "") -> dict[str, Any]:
        """The text, and the thinking beside it."""
        return {"response": text, "thinking": thinking} if thinking else {"response": text}


class OllamaShowRequest(WireModel):
    """`POST /api/show`; `name` is the older name of `model`."""

    model: str = ""
    name: str = ""
