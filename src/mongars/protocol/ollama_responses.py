"""Server side of Ollama's protocol: the bodies of its responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from mongars.core.generation import FinishReason, Usage

MEDIA_TYPE = "application/x-ndjson"
"""The media type of a stream: one JSON object per line."""
NANOSECONDS = 1_000_000_000


def timestamp(moment: datetime) -> str:
    """The time `moment`, which must be in UTC, in the format of Ollama's responses (RFC 3339, ending in `Z`)."""
    return moment.isoformat().replace("+00:00", "Z")


def part_body(
    content: Mapping[str, Any], *, model: str, created_at: str, done: bool = False
) -> dict[str, Any]:
    """The JSON object of one line of a stream, or of a non-streaming response, in Ollama's format.

    Keys: `model`, `created_at`, `done` and those of `content`, the fields with text and counts. `created_at`: time in
    RFC 3339 format, ending in `Z`. `done`: whether the answer is complete.
    """
    return {"model": model, "created_at": created_at, **content, "done": done}


def done_fields(
    reason: FinishReason | Literal["load"],
    *,
    usage: Usage | None = None,
    durations: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The fields that only the last line of an answer has: the finish reason, durations and token counts.

    Keys: `done_reason`, those of `durations`, and `prompt_eval_count` and `eval_count`, which are left out without
    `usage`. `reason`: why the answer ended, or `load` if the request only loaded the model. `durations`: in seconds by
    Ollama's field name, such as `total_duration`; converted to nanoseconds.
    """
    found: dict[str, Any] = {"done_reason": reason}
    for name, seconds in (durations or {}).items():
        found[name] = int(max(0.0, seconds) * NANOSECONDS)
    if usage is not None:
        found["prompt_eval_count"] = usage.prompt_tokens
        found["eval_count"] = usage.completion_tokens
    return found


def embed_body(
    vectors: Sequence[object], *, model: str, prompt_tokens: int, durations: Mapping[str, float]
) -> dict[str, Any]:
    """The JSON body of a response of `/api/embed`, in Ollama's format.

    Keys: `model`, `embeddings`, `prompt_eval_count` and those of `durations`. `vectors`: one list of numbers, or
    fragment of encoded JSON with it, per text, in order. `durations`: in seconds by Ollama's field name, such as
    `total_duration`; converted to nanoseconds.
    """
    found: dict[str, Any] = {"model": model, "embeddings": vectors}
    for name, seconds in durations.items():
        found[name] = int(max(0.0, seconds) * NANOSECONDS)
    return {**found, "prompt_eval_count": prompt_tokens}


DETAILS: dict[str, Any] = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": None,
    "parameter_size": "",
    "quantization_level": "",
}
"""The `details` of a model, all empty, because the files that a replica has loaded are not known here."""


def model_body(name: str, *, modified_at: str) -> dict[str, Any]:
    """The entry of one available model in the response of `/api/tags`; its size (0) and digest (empty) are unknown.

    `modified_at`: time in RFC 3339 format, ending in `Z`.
    """
    return {
        "name": name,
        "model": name,
        "modified_at": modified_at,
        "size": 0,
        "digest": "",
        "details": DETAILS,
    }


def running_body(
    name: str, *, expires_at: str, context_tokens: int | None = None
) -> dict[str, Any]:
    """The entry of one loaded model in the response of `/api/ps`; its sizes (0) and digest (empty) are unknown.

    `expires_at`: when it will be unloaded, in RFC 3339 format, ending in `Z`. `context_tokens`: its context window;
    None: it is left out.
    """
    found = {
        "name": name,
        "model": name,
        "size": 0,
        "digest": "",
        "details": DETAILS,
        "expires_at": expires_at,
        "size_vram": 0,
    }
    return found if context_tokens is None else {**found, "context_length": context_tokens}


def show_body(
    name: str,
    *,
    modified_at: str,
    context_tokens: int | None,
    capability: Literal["completion", "embedding"] = "completion",
) -> dict[str, Any]:
    """The JSON body of a response of `/api/show`, which describes the model `name`.

    `modified_at`: time in RFC 3339 format, ending in `Z`. `context_tokens`: its context window, at the key where
    Ollama's clients read it (`mongars.context_length` in `model_info`); None: it is left out. `capability`: what the
    model does.
    """
    info: dict[str, Any] = {"general.architecture": "mongars", "general.basename": name}
    if context_tokens is not None:
        info["mongars.context_length"] = context_tokens
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": DETAILS,
        "model_info": info,
        "capabilities": [capability],
        "modified_at": modified_at,
    }
