"""The server side of Ollama's protocol: the bodies of its responses."""

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
    """A time as Ollama writes it (RFC 3339, UTC)."""
    return moment.isoformat().replace("+00:00", "Z")


def part_body(
    content: Mapping[str, Any], *, model: str, created_at: str, done: bool = False
) -> dict[str, Any]:
    """The common fields of a response, for a line of a stream or for a response in one piece."""
    return {"model": model, "created_at": created_at, **content, "done": done}


def done_fields(
    reason: FinishReason | Literal["load"],
    *,
    usage: Usage | None = None,
    durations: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The fields of a finished response: the reason, the durations and the token counts.

    `durations` are in seconds and are written in nanoseconds. Counts that the engine did not report are left out.
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
    """The response of `/api/embed`; `durations` are in seconds and become nanoseconds."""
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
"""The `details` of a model, all empty: the gateway does not know which file a replica has loaded."""


def model_body(name: str, *, modified_at: str) -> dict[str, Any]:
    """An entry of `/api/tags`. The model's size (0) and digest (empty) are not known."""
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
    """An entry of `/api/ps`."""
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
    """The response of `/api/show`; clients look for a context length under the architecture's name."""
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
