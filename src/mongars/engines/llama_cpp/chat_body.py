"""The body of a chat-completion request to llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.protocol.sampling_fields import sampling_writer
from mongars.protocol.schema.enforced import check_conversion, grammar_of

if TYPE_CHECKING:
    from mongars.core.generation import GenerationRequest

_SAMPLING = sampling_writer("llama_cpp")


def chat_body(request: GenerationRequest, *, model: str, reasons: bool = False) -> dict[str, Any]:
    """The JSON body of a chat-completion request to llama.cpp's server, for a streamed answer with token usage.

    `model` is the model's name in the body. A JSON schema in the request is converted to a GBNF grammar here.
    `reasons`: True for a model that generates reasoning before its answer; then llama.cpp converts the schema, since
    only llama.cpp recognises where the answer begins.

    Raises `ParameterUnsupported` for a schema that cannot be enforced, or for a parameter that llama.cpp does not
    support.
    """
    sampling = request.sampling
    if reasons:
        check_conversion(sampling.response_format)
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_SAMPLING.write(sampling),
    }
    optional = {
        "response_format": sampling.response_format if reasons else None,
        "grammar": None if reasons else grammar_of(sampling.response_format),
    }
    body.update({name: value for name, value in optional.items() if value is not None})
    if sampling.logprobs:
        body["logprobs"] = True
        # Without this field llama.cpp sends twenty alternatives per token.
        body["top_logprobs"] = max(1, sampling.top_logprobs or 0)
    return body
