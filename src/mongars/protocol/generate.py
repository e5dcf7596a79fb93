"""The wire contract of `POST /generate`, the main route of the Ray Serve application.

Published fields are never renamed, retyped or dropped. Requests of the earlier monGARS client
(`prompt`, `task_type`, `adapter`) are accepted as they are.
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
"""Of an adapter or a replica, in characters."""

LONGEST_SESSION_ID = 200  # characters
_SAMPLING = sampling_writer("replica")


class AdapterPayload(WireModel):
    """The adapter that a client pins, by version, digest or both; paths are never followed.

    With `adapter_path` it is no pin: the earlier monGARS client sends the entry of its own registry
    with every request, and expects an answer whatever is served.
    """

    version: str | None = None
    digest: str | None = None
    adapter_path: str | None = None

    def pin(self) -> str | None:
        """In the form of `GenerationRequest.adapter`; None if nothing is pinned."""
        if self.adapter_path is not None or (self.version is None and self.digest is None):
            return None
        if self.digest is None:
            return self.version
        return str(AdapterPin(name=self.version, digest=self.digest))


class BegunPayload(WireModel):
    """The part of the answer that was delivered already, and the weights that generated it.

    The answer continues after `text` if the replica has the same weights, which it reports in the header
    `x-continued`; else it begins anew.
    """

    text: str
    model: str
    adapter_version: str
    adapter_digest: str | None = None


class GenerateRequest(SamplingFields):
    """Body of `POST /generate`: either `prompt` or `messages`."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    task_type: str = "general"
    adapter: AdapterPayload | None = None
    stream: bool = False
    session_id: str | None = Field(default=None, max_length=LONGEST_SESSION_ID)
    cache_salt: str | None = Field(default=None, max_length=200)
    """An opaque name of the account a request is for: the work on its prompt may be reused for
    requests with the same one. Without it, nothing is reused; a `session_id` does not count, since
    clients choose that themselves."""
    weight: float | None = Field(default=None, ge=LEAST_WEIGHT, le=MOST_WEIGHT)
    """How much its account gets where slots are short, compared with an account of weight 1."""
    continue_from: BegunPayload | None = None

    def to_generation(self, *, request_id: str) -> GenerationRequest:
        """Our own form. Raises `PromptMissing` when there is nothing to answer."""
        messages = self.messages or [ChatMessage(role="user", content=self.prompt or "")]
        begun = self.continue_from
        return GenerationRequest(
            messages=prompt_messages(messages, field="messages" if self.messages else "prompt"),
            request_id=request_id,
            task_type=self.task_type,
            sampling=self.to_sampling(),
            session_id=self.session_id,
            adapter=None if self.adapter is None else self.adapter.pin(),
            scope=self.cache_salt or None,
            weight=self.weight or 1.0,
            continue_from=None if begun is None else PartialAnswer(**begun.model_dump()),
        )


def request_body(
    request: GenerationRequest,
    *,
    stream: bool,
    cache_salt: str | None = None,
    weight: float = 1.0,
) -> dict[str, Any]:
    """What our client sends; `prompt` stays beside `messages` for applications that know only it."""
    begun = request.continue_from
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
        "continue_from": dataclasses.asdict(begun) if begun is not None and begun.text else None,
    }
    body.update({name: value for name, value in optional.items() if value is not None})
    return body


def _pin_body(adapter: str) -> dict[str, str]:
    pin = AdapterPin.parse(adapter)
    fields = {"version": pin.name, "digest": pin.digest}
    return {name: value for name, value in fields.items() if value is not None}


def origin_body(origin: Origin) -> dict[str, Any]:
    """Who answers: the data of the `meta` event, and part of a whole answer."""
    return {
        "model": origin.model,
        "engine": origin.engine,
        "adapter_version": origin.adapter_version,
        "adapter": {"version": origin.adapter_version, "digest": origin.adapter_digest},
        "replica": origin.replica,
        "degraded": origin.degraded,
    }


def origin_from(body: dict[str, Any]) -> Origin:
    """Read back what `origin_body` wrote; absent fields take the defaults of a plain base model.

    Raises `InvalidAnswer` for a name that could not be passed on in a header.
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
    """A whole answer; `timings` are in seconds."""
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
    """An error in the shape callers of the earlier monGARS know, beside a real status code."""
    return {
        "content": "",
        "error": error.code,
        "detail": str(error),
        "adapter_version": adapter_version,
        **error_facts(error),
    }
