"""Arguments and result of `LLMIntegration.generate_response`: one prompt in, one dictionary out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.generation import GenerationRequest, confidence
from mongars.core.ids import new_id
from mongars.protocol.messages import ChatMessage, prompt_messages
from mongars.protocol.openai import usage_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mongars.core.generation import Completion, Sampling
    from mongars.inference.provider import Route


def prompt_request(
    prompt: str, task_type: str, *, session_id: str | None, sampling: Sampling
) -> GenerationRequest:
    """A generation request with `prompt` as its only message and a new request id.

    `task_type`: `code`, `coding` or `developer` selects the model for code, any other text the general one.
    `session_id`: requests with the same one prefer the same endpoint; None: no preference. `sampling`: the sampling
    parameters, such as the maximum number of tokens. Raises `PromptMissing` if `prompt` is blank.
    """
    return GenerationRequest(
        messages=prompt_messages([ChatMessage(role="user", content=prompt)]),
        request_id=new_id("req"),
        task_type=task_type,
        sampling=sampling,
        session_id=session_id,
    )


def resolved_task_type(task_type: str, hints: Mapping[str, Any] | None) -> str:
    """`reasoning` if `task_type` is `general` and `hints["reasoning"]` is a true value, else `task_type` unchanged.

    Earlier clients request the reasoning model with this hint.
    """
    if task_type == "general" and hints and hints.get("reasoning"):
        return "reasoning"
    return task_type


def response_dict(completion: Completion, route: Route, *, request_id: str) -> dict[str, Any]:
    """The dictionary that `LLMIntegration.generate_response` returns; values the engine did not report are None.

    Keys: `text`, `confidence` (exponential of the mean token log-probability), `tokens_used` (completion tokens),
    `source` (provider name), `adapter_version`, `usage` (OpenAI's object) and `request_id`.
    """
    usage = completion.usage
    logprobs = completion.logprobs
    return {
        "text": completion.text,
        "confidence": confidence(logprobs),
        "tokens_used": None if usage is None else usage.completion_tokens,
        "source": route.provider,
        "adapter_version": completion.origin.adapter_version,
        "usage": None if usage is None else usage_body(usage),
        "request_id": request_id,
    }
