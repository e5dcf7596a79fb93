"""Convert sampling parameters to arguments of vLLM's classes, without importing vLLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.errors import InvalidRequest
from mongars.protocol.sampling_fields import sampling_writer
from mongars.protocol.schema.enforced import check_conversion

if TYPE_CHECKING:
    from mongars.core.generation import Sampling

_SAMPLING = sampling_writer("vllm")


def sampling_arguments(sampling: Sampling, defaults: dict[str, Any]) -> dict[str, Any]:
    """Convert sampling parameters to keyword arguments for vLLM's `SamplingParams`.

    `defaults` are the model's own arguments, by the names of `SamplingParams`, for parameters that are None in
    `sampling`; but `max_tokens` None stays None: as many tokens as the context window has left. Raises
    `ParameterUnsupported` for a parameter that vLLM does not support.
    """
    arguments = defaults | _SAMPLING.write(sampling)
    if sampling.logit_bias:
        arguments["logit_bias"] = dict(sampling.logit_bias)
    if sampling.logprobs:
        arguments["logprobs"] = sampling.top_logprobs or 0
    # None means: as many tokens as the context window has left.
    return arguments | {"max_tokens": sampling.max_tokens}


def structure_arguments(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    """Convert a request's `response_format` (OpenAI's JSON object) to arguments of vLLM's `StructuredOutputsParams`.

    Returns keyword arguments: `json` with a JSON schema, or `json_object` True for any JSON object. Returns None if the
    answer is free text, that is, if `response_format` is None or has the type `text`.

    Raises:
        InvalidRequest: the format is none of OpenAI's API.
        ParameterUnsupported: the schema has a keyword that vLLM is not known to enforce.
    """
    check_conversion(response_format)
    match response_format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return {"json": schema}
        case {"type": "json_object", "schema": dict(schema)}:  # llama.cpp's name for the same
            return {"json": schema}
        case {"type": "json_object"}:
            return {"json_object": True}
    detail = (
        "'response_format' must have the type 'text', 'json_object', or 'json_schema' with a"
        " 'schema' inside 'json_schema'."
    )
    raise InvalidRequest(detail)
