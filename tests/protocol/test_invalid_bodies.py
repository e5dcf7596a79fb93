"""Invalid request bodies: a small body cannot cause many validation errors or a long error message."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from mongars.core.errors import InvalidRequest
from mongars.protocol.body import parse_model
from mongars.protocol.generate import GenerateRequest
from mongars.protocol.ollama_requests import OllamaChatRequest
from mongars.protocol.openai import ChatCompletionRequest

MOST_ERRORS = 2 * 1024
"""Each of the 1024 accepted entries of `logit_bias` may have an invalid key and an invalid value."""
LONGEST_MESSAGE = 10_000
"""Characters; more than ten errors with a path and a reason of the greatest length."""
HELLO = {"role": "user", "content": "hello"}
CALLS = {"role": "assistant", "tool_calls": [1] * 20_000}
LONG = "x" * 20_000


def refused(body: dict[str, Any], model: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_model(orjson.dumps({"model": "m", **body}), model)
    return caught.value


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        pytest.param(
            ChatCompletionRequest, {"messages": [1] * 20_000}, "messages[0]", id="numbers"
        ),
        pytest.param(GenerateRequest, {"messages": [1] * 20_000}, "messages[0]", id="generate"),
        pytest.param(OllamaChatRequest, {"messages": [1] * 20_000}, "messages[0]", id="ollama"),
        pytest.param(
            ChatCompletionRequest, {"messages": [{}] * 20_000}, "messages[0].role", id="objects"
        ),
        pytest.param(
            ChatCompletionRequest, {"messages": [CALLS]}, "messages[0].tool_calls[0]", id="calls"
        ),
        pytest.param(
            OllamaChatRequest, {"messages": [CALLS]}, "messages[0].tool_calls[0]", id="ollama-calls"
        ),
        pytest.param(
            ChatCompletionRequest,
            {"messages": [HELLO], "logit_bias": {f"x{i}": "y" for i in range(10_000)}},
            "logit_bias",
            id="biases",
        ),
        pytest.param(
            ChatCompletionRequest,
            {"messages": [HELLO], "logit_bias": {f"x{i}": "y" for i in range(1024)}},
            "logit_bias.x0",
            id="accepted-number-of-biases",
        ),
    ],
)
def test_errors_are_few_and_the_message_short(
    model: Any, fields: dict[str, Any], param: str
) -> None:
    """However many entries of a body are invalid, pydantic makes few errors, and the first is described."""
    error = refused(fields, model)
    assert error.param == param
    assert len(str(error)) <= LONGEST_MESSAGE
    assert isinstance(error.__cause__, ValidationError)
    assert error.__cause__.error_count() <= MOST_ERRORS


def test_ten_errors_are_described_and_the_others_counted() -> None:
    """The message has ten errors and says how many more there are."""
    bias = dict.fromkeys(map(str, range(13)), "much")
    message = str(refused({"messages": [HELLO], "logit_bias": bias}, ChatCompletionRequest))
    assert message.count("logit_bias.") == 10
    assert "logit_bias.9: " in message
    assert message.endswith("; and 3 more errors.")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"logit_bias": {LONG: 1}}, f"logit_bias.{'x' * 99}…", id="key"),
        pytest.param(
            {"response_format": {"type": [LONG[:4000]] * 5}}, "response_format", id="value"
        ),
    ],
)
def test_quoted_keys_and_values_are_shortened(fields: dict[str, Any], param: str) -> None:
    """Long keys and values of the body are shortened in message and `param`."""
    error = refused({"messages": [HELLO], **fields}, ChatCompletionRequest)
    assert error.param == param
    assert len(str(error)) <= 1000
    assert str(error).startswith(f"{param}: ")
