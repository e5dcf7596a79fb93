"""The chat-completion body for llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.protocol.schema.enforced import check_conversion, grammar_of

if TYPE_CHECKING:
    from mongars.core.generation import GenerationRequest


def chat_body(request: GenerationRequest, *, model: str, reasons: bool = False) -> dict[str, Any]:
    """The request in OpenAI's form, always streamed and always with usage.

    A schema is converted to a grammar of ours. For a model that reasons first, only llama.cpp knows
    where the answer begins, so there its own conversion is used. Raises `ParameterUnsupported`.
    """
    sampling = request.sampling
    if reasons:
        check_conversion(sampling.response_format)
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    optional = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repetition_penalty,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
        "response_format": sampling.response_format if reasons else None,
        "grammar": None if reasons else grammar_of(sampling.response_format),
    }
    body.update({name: value for name, value in optional.items() if value is not None})
    if sampling.logprobs:
        body["logprobs"] = True
        # Without this field llama.cpp sends twenty alternatives per token.
        body["top_logprobs"] = max(1, sampling.top_logprobs or 0)
    return body
