"""Messages in OpenAI's format, and their conversion to the texts that a model reads.

Models here do not call tools yet, but agents send histories with tool calls of another model. Calls and
results become text (ADR 0019): a call is appended to the assistant's message, and consecutive results become
one user message, since every chat template accepts such messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mongars.core.errors import PromptMissing
from mongars.core.generation import Message, Role
from mongars.protocol.parameters import MESSAGE_REFUSED, RefusedParameter
from mongars.protocol.wire_model import WireModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MEDIA = {
    "image_url": "an image; images are",
    "input_image": "an image; images are",
    "image": "an image; images are",
    "input_audio": "audio; audio is",
    "audio_url": "audio; audio is",
    "video_url": "a video; videos are",
    "file": "a file; files are",
    "input_file": "a file; files are",
}


def _text_of(content: object) -> object:
    """The text of a message's field `content`, whose text parts are joined, without a separator, if it is a list.

    Raises `ValueError` for a part that is not text, such as an image. A value that is not a list is returned unchanged.
    """
    if not isinstance(content, list):
        return content
    return "".join([_text_of_part(index, part) for index, part in enumerate(content)])


def _text_of_part(index: int, part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(kind) if isinstance(part, dict) and kind in {"text", "refusal"} else None
    if isinstance(text, str):
        return text
    if isinstance(kind, str) and kind in _MEDIA:
        message = f"part {index} is {_MEDIA[kind]} not supported, send text"
    else:
        message = f"part {index} must be {{'type': 'text', 'text': '...'}}"
    raise ValueError(message)


Text = Annotated[str, BeforeValidator(_text_of, json_schema_input_type=str | list[dict[str, Any]])]
"""A string, or a list of text parts, which are joined to one string."""


class CalledFunction(WireModel):
    """The function that a tool call names: its name, and its arguments as a JSON string."""

    name: str
    arguments: str = ""


class CustomTool(WireModel):
    """The custom tool that a tool call names: its name, and its input as free text."""

    name: str
    input: str = ""


class ToolCall(WireModel):
    """A tool call in an assistant's message, of a function or of a custom tool. One of the two must be given."""

    id: str = ""
    type: Literal["function", "custom"] = "function"
    function: CalledFunction | None = None
    custom: CustomTool | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if self.function is None and self.custom is None:
            message = f"{self.type}: must name what was called"
            raise ValueError(message)
        return self

    def as_text(self) -> str:
        """This call as text, such as `[Called NAME with ARGUMENTS]`, for models that do not call tools themselves."""
        if self.custom is not None:
            return _call(self.custom.name, self.custom.input)
        return "" if self.function is None else _call(self.function.name, self.function.arguments)

    @property
    def name(self) -> str:
        """The name of the called function or custom tool."""
        called = self.custom or self.function
        return "" if called is None else called.name


_ASSISTANT_FIELDS = frozenset({"refusal", "tool_calls", "function_call"})


class ChatMessage(WireModel):
    """A message of a conversation in OpenAI's format, as in a request body."""

    refused: ClassVar[dict[str, RefusedParameter]] = MESSAGE_REFUSED

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text = ""
    refusal: str = ""
    name: str = ""
    tool_calls: list[ToolCall] = Field(default_factory=list, fail_fast=True)
    tool_call_id: str = ""
    function_call: CalledFunction | None = None

    def as_text(self) -> str:
        """The content of this message as text; empty if it has none.

        For an assistant's message, its refusal if there is no content, and the tool calls as text after it.
        """
        if not self.model_fields_set & _ASSISTANT_FIELDS:  # nearly all messages
            return self.content
        if self.role != "assistant":
            return self.content
        calls = [call.as_text() for call in self.tool_calls]
        if self.function_call is not None:
            calls.append(_call(self.function_call.name, self.function_call.arguments))
        return "\n\n".join(filter(None, [self.content or self.refusal, *calls]))


def _call(name: str, arguments: str) -> str:
    return f"[Called {name} with {arguments or 'nothing'}]"


def prompt_messages(
    messages: Sequence[ChatMessage], *, field: str = "messages"
) -> tuple[Message, ...]:
    """Convert messages of a request to messages for the model, with tool calls and their results as text.

    Consecutive results become one user message. Raises `PromptMissing` if no message has text; `field`: the request's
    field that the error names.
    """
    found = tuple(_prompt_messages(messages))
    if not any(message.content.strip() for message in found):
        detail = f"{field}: the request holds no message with text to answer."
        raise PromptMissing(detail, param=field)
    return found


def _prompt_messages(messages: Iterable[ChatMessage]) -> Iterable[Message]:
    names: dict[str, str] = {}
    results: list[str] = []
    for message in messages:
        if message.role in {"tool", "function"}:
            tool = names.get(message.tool_call_id) or message.name or "the tool"
            results.append(f"[Result of {tool}]\n{message.content}")
            continue
        if results:
            yield Message(role="user", content="\n\n".join(results))
            results = []
        if message.tool_calls:
            names.update((call.id, call.name) for call in message.tool_calls)
        yield Message(role=_ROLES[message.role], content=message.as_text())
    if results:
        yield Message(role="user", content="\n\n".join(results))


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
