"""An example for each field of `Sampling`: a valid value that is not the default."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from mongars.protocol.sampling_fields import PARAMETERS, SamplingFields

_GIVEN: dict[str, Any] = {
    "stop": ("x",),
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": ((5, -100.0), (7, 1.5)),
    "response_format": {
        "type": "json_schema",
        "json_schema": {"schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    },
}
"""For parameters that are not simple numbers, or depend on another one."""


def _number(field: str) -> float:
    for value in (0.5, 3):
        try:
            SamplingFields.model_validate({field: value})
        except ValidationError:
            continue
        return value
    message = f"{field}: add an example to _GIVEN"
    raise AssertionError(message)


EXAMPLES: dict[str, Any] = {
    entry.name: _GIVEN[entry.name] if entry.name in _GIVEN else _number(field)
    for field, entry in PARAMETERS.items()
}
