"""The table of sampling parameters: each is read, and is sent to every engine or refused by its name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from sampling_examples import EXAMPLES

from mongars.core.errors import ParameterUnsupported
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.llama_cpp.chat_body import chat_body
from mongars.engines.vllm.sampling import sampling_arguments, structure_arguments
from mongars.protocol.completions import CompletionRequest
from mongars.protocol.generate import GenerateRequest, request_body
from mongars.protocol.ollama import chat_request
from mongars.protocol.ollama_requests import OllamaOptions
from mongars.protocol.openai import ChatCompletionRequest
from mongars.protocol.sampling_fields import PARAMETERS
from mongars.protocol.sampling_table import UNSET, BodyFormat, WrittenByEngine, parameters_of

BY_NAME = {entry.name: entry for entry in PARAMETERS.values()}
BODIES: tuple[BodyFormat, ...] = ("replica", "llama_cpp", "vllm", "ollama")
ONE_BY_ONE = "n"
"""Not part of a request to an engine, which generates one choice."""


def body_for(body: BodyFormat, sampling: Sampling) -> dict[str, Any]:
    request = GenerationRequest(
        messages=(Message(role="user", content="Hi"),), request_id="r", sampling=sampling
    )
    match body:
        case "replica":
            return request_body(request, stream=True)
        case "llama_cpp":
            return chat_body(request, model="m")
        case "vllm":
            structure = structure_arguments(sampling.response_format)
            return sampling_arguments(sampling, {}) | {"structured_outputs": structure}
        case "ollama":
            found = chat_request(request, model="m")
            return found | found["options"]


def example(name: str) -> Sampling:
    """A `Sampling` with that parameter alone, and `logprobs` for `top_logprobs`."""
    needed = {"logprobs": True} if name == "top_logprobs" else {}
    return Sampling(**{name: EXAMPLES[name], **needed})


def test_the_table_has_every_parameter() -> None:
    """The table has exactly the fields of `Sampling`."""
    assert BY_NAME.keys() == {each.name for each in fields(Sampling)}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_parameter_reaches_each_engine_or_is_refused_by_name(name: str, body: BodyFormat) -> None:
    """A parameter that a client sets is in the engine's request, or the client gets an error with its name."""
    entry = BY_NAME[name]
    place = entry.place(body)
    if place is None:
        with pytest.raises(ParameterUnsupported) as caught:
            body_for(body, example(name))
        assert caught.value.param == name
        return
    written = body_for(body, example(name))
    if isinstance(place, str):
        value = EXAMPLES[name]
        assert written[place] == (value if entry.write is None else entry.write(value))
        assert body_for(body, Sampling()).get(place) is None
    elif name != ONE_BY_ONE:
        assert written != body_for(body, Sampling())
        assert isinstance(place, WrittenByEngine)
        assert place.how


@pytest.mark.parametrize("model", [ChatCompletionRequest, GenerateRequest, CompletionRequest])
@pytest.mark.parametrize("field", sorted(PARAMETERS))
def test_a_parameter_is_a_field_of_each_dialect_of_openai(
    model: type[ChatCompletionRequest | GenerateRequest | CompletionRequest], field: str
) -> None:
    """Every request model of OpenAI's dialects has all parameters, with the default None."""
    assert model.model_fields[field].default is None


def test_options_of_ollama_are_read_and_written_under_the_same_names() -> None:
    """The parameters have the same names in requests from Ollama's clients and in requests to Ollama."""
    read = {entry.name: field for field, entry in parameters_of(OllamaOptions).items()}
    written = {name: entry.place("ollama") for name, entry in BY_NAME.items()}
    assert read == {name: place for name, place in written.items() if isinstance(place, str)}


def test_values_that_are_sent_are_those_that_differ_from_the_default() -> None:
    """A value of 0 is sent: temperature 0 must not become the replica's default."""
    zeros = {"temperature": 0.0, "top_k": 0, "min_p": 0.0, "presence_penalty": 0.0, "seed": 0}
    written = body_for("replica", Sampling(**zeros))
    assert {name: written[name] for name in zeros} == zeros
    assert {each.name: each.default for each in fields(Sampling)} == UNSET


def test_a_choice_count_is_sent_if_there_are_several() -> None:
    """`n` is sent only if it is not 1."""
    assert "n" not in body_for("replica", Sampling(n=1))
    assert body_for("replica", Sampling(n=2))["n"] == 2
