"""Requests and responses of `POST /generate`, the main route of the Ray Serve application.

Published fields are never renamed, removed or given another type. Requests of the earlier monGARS client
(`prompt`, `task_type`, `adapter`) remain valid.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mongars.core.adapter_pin import AdapterPin
from mongars.core.errors import InvalidAnswer
from mongars.core.fair_queue import LEAST_WEIGHT, MOST_WEIGHT
from mongars.core.generation import (
    BASE_ADAPTER,
    Choice,
    Completion,
    GenerationRequest,
    Origin,
    PartialAnswer,
)
from mongars.protocol.adapter_field import GenerateAdapterField, pin_of
from mongars.protocol.messages import ChatMessage, prompt_messages
from mongars.protocol.openai import message_body, usage_body
from mongars.protocol.problems import error_facts
from mongars.protocol.sampling_fields import SamplingFields, sampling_writer
from mongars.protocol.wire_model import WireModel

if TYPE_CHECKING:
    from mongars.core.errors import MongarsError

META_EVENT = "meta"
ERROR_EVENT = "error"
LONGEST_NAME = 256
"""Maximum length in characters of the name of an adapter or a replica."""

LONGEST_SESSION_ID = 200  # characters
_SAMPLING = sampling_writer("replica")


class PartialAnswerPayload(WireModel):
    """The field `continue_from` of a request: the part of an answer that the client has, and what generated it.

    If the replica serves the same model and adapter, its response continues after `text` and has the header
    `x-continued: true`; otherwise the response starts from the beginning.
    """

    text: str
    model: str
    adapter_version: str
    adapter_digest: str | None = None


class GenerateRequest(SamplingFields):
    """The body of `POST /generate`, with either `prompt` or `messages`; `prompt` is ignored if there are messages."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(default=None, fail_fast=True)
    task_type: str = "general"
    adapter: GenerateAdapterField | None = None
    stream: bool = False
    session_id: str | None = Field(default=None, max_length=LONGEST_SESSION_ID)
    cache_salt: str | None = Field(default=None, max_length=200)
    """An opaque identifier of the account. The engine's prompt cache is shared among requests with the same value,
    and not used without one. `session_id` is not used for this, since clients choose it freely."""
    weight: float | None = Field(default=None, ge=LEAST_WEIGHT, le=MOST_WEIGHT)
    """The account's share of the engine while requests wait, relative to an account of weight 1."""
    continue_from: PartialAnswerPayload | None = None

    @property
    def field_names(self) -> dict[str, str]:
        """The names that errors give fields of this request, and the name of each, where it differs."""
        return {} if self.messages else {"messages": "prompt"}

    def to_generation(self, *, request_id: str) -> GenerationRequest:
        """Convert this request body to a `GenerationRequest` with the id `request_id`.

        Raises `PromptMissing` if the messages, or `prompt` where there are none, contain no text.
        """
        messages = self.messages or [ChatMessage(role="user", content=self.prompt or "")]
        partial = self.continue_from
        return GenerationRequest(
            messages=prompt_messages(messages, field="messages" if self.messages else "prompt"),
            request_id=request_id,
            task_type=self.task_type,
            sampling=self.to_sampling(),
            session_id=self.session_id,
            adapter=pin_of(self.adapter),
            scope=self.cache_salt or None,
            weight=self.weight or 1.0,
            continue_from=None if partial is None else PartialAnswer(**partial.model_dump()),
        )


def request_body(
    request: GenerationRequest,
    *,
    stream: bool,
    cache_salt: str | None = None,
    weight: float = 1.0,
) -> dict[str, Any]:
    """The JSON body of `POST /generate` that sends `request` to a replica; `stream`: whether to stream the answer.

    `cache_salt`: identifies the account without its name, None without an account. `weight`: the account's share while
    requests queue, relative to an account of weight 1. Besides `messages`, the body has `prompt`, the last message, for
    applications that read only that.
    """
    partial = request.continue_from
    body: dict[str, Any] = {
        "prompt": request.messages[-1].content,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "task_type": request.task_type,
        "stream": stream,
        **_SAMPLING.write(request.sampling),
    }
    optional = {
        "session_id": request.session_id,
        "adapter": None if request.adapter is None else _pin_body(request.adapter),
        "cache_salt": cache_salt,
        "weight": weight if weight != 1 else None,
        "continue_from": dataclasses.asdict(partial)
        if partial is not None and partial.text
        else None,
    }
    body.update({name: value for name, value in optional.items() if value is not None})
    return body


def _pin_body(adapter: str) -> dict[str, str]:
    pin = AdapterPin.parse(adapter)
    fields = {"version": pin.name, "digest": pin.digest}
    return {name: value for name, value in fields.items() if value is not None}


def origin_body(origin: Origin) -> dict[str, Any]:
    """The response fields that name the model, engine, adapter and replica of an answer.

    Keys: `model`, `engine`, `adapter_version`, `adapter` (`version` and `digest`), `replica` and `degraded` (whether
    the engine cannot use the adapters of this deployment). `digest` and `replica` are None if there is none. The fields
    are in the event `meta`, with which a stream begins, and in non-streaming responses.
    """
    return {
        "model": origin.model,
        "engine": origin.engine,
        "adapter_version": origin.adapter_version,
        "adapter": {"version": origin.adapter_version, "digest": origin.adapter_digest},
        "replica": origin.replica,
        "degraded": origin.degraded,
    }


def origin_from(body: dict[str, Any]) -> Origin:
    """Parse the fields of a response of `/generate` that name the model, engine, adapter and replica of an answer.

    `body`: the decoded data of the event `meta`, or a decoded non-streaming response, with the keys `model`, `engine`,
    `adapter_version`, `adapter` (an object with `digest`), `replica` and `degraded`, all optional. Without `model`,
    that in the object `usage` counts. An answer without adapter fields is one of the base model; absent names of model
    and engine are `unknown`. Raises `InvalidAnswer` for a name of an adapter or replica that cannot be sent in an HTTP
    header.
    """
    adapter = body.get("adapter")
    digest = adapter.get("digest") if isinstance(adapter, dict) else None
    replica = body.get("replica")
    usage = body.get("usage")
    named = usage.get("model") if isinstance(usage, dict) else None
    return Origin(
        model=str(body.get("model") or named or "unknown"),
        engine=str(body.get("engine") or "unknown"),
        adapter_version=_name(body.get("adapter_version") or BASE_ADAPTER),
        adapter_digest=None if digest is None else _name(digest),
        replica=None if replica is None else _name(replica),
        degraded=bool(body.get("degraded")),
    )


def _name(value: object) -> str:
    name = str(value)
    if not (name.isascii() and name.isprintable() and len(name) <= LONGEST_NAME):
        detail = "The answer names its adapter or replica in a way that fits no header."
        raise InvalidAnswer(detail)
    return name


def answer_body(completion: Completion, *, timings: dict[str, float]) -> dict[str, Any]:
    """The JSON body of a non-streaming response of `/generate`.

    Keys: `content` (the text), `message`, `model`, `engine`, `adapter_version`, `adapter`, `replica`, `degraded`
    (whether the engine cannot use adapters), `usage`, `finish_reason`, `choices` and `timings`. `timings`: durations
    in seconds by name, sent as they are.
    """
    choices = completion.choices
    usage: dict[str, Any] = {"model": completion.origin.model, "generations": len(choices)}
    if completion.usage is not None:
        usage.update(usage_body(completion.usage))
    return {
        "content": completion.text,
        "message": {**message_body(choices[0]), "content": completion.text},
        **origin_body(completion.origin),
        "usage": usage,
        "finish_reason": completion.finish_reason,
        "choices": [_choice_body(choice) for choice in choices],
        "timings": timings,
    }


def _choice_body(choice: Choice) -> dict[str, Any]:
    body: dict[str, Any] = {"content": choice.text, "finish_reason": choice.finish_reason}
    if choice.logprobs:
        body["logprobs"] = list(choice.logprobs)
    return body


def error_body(error: MongarsError, *, adapter_version: str) -> dict[str, Any]:
    """The JSON body of an error response of `/generate`, in the format of the earlier monGARS.

    Keys: `content` (empty), `error` (the code), `detail` (the message), `adapter_version`; if a request field is at
    fault, `param` with its name; for a prompt that is too long, `prompt_tokens` and `context_tokens`.
    `adapter_version`: that of the adapter in use.
    """
    return {
        "content": "",
        "error": error.code,
        "detail": str(error),
        "adapter_version": adapter_version,
        **error_facts(error),
    }
