"""Request parameters: which are read, ignored or refused, that null counts as left out, and how messages are read."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import orjson
import pytest
from sampling_examples import EXAMPLES

from mongars.core.errors import CallerError, InvalidRequest, PromptMissing
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.protocol.body import parse_model
from mongars.protocol.embeddings import (
    EmbeddingRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
)
from mongars.protocol.generate import GenerateRequest, request_body
from mongars.protocol.ollama_requests import OllamaChatRequest
from mongars.protocol.openai import ChatCompletionRequest
from mongars.protocol.parameters import (
    EMBEDDINGS_REFUSED,
    GENERATION_REFUSED,
    IGNORED,
    RefusedParameter,
)
from mongars.protocol.sampling_fields import PARAMETERS

HELLO = [{"role": "user", "content": "hello"}]
PYTHON_WORDS = re.compile(r"instance of|dictionary|None|\[key\]|\bstr\b|list\[")
CHAT = {"model": "m", "messages": HELLO}
DEMANDS: dict[str, Any] = {
    "tool_choice": "required",
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
}
"""For refused parameters: a value of the right type that would change the answer."""


def chat(**fields: Any) -> ChatCompletionRequest:
    return parse_model(orjson.dumps({**CHAT, **fields}), ChatCompletionRequest)


def generate(**fields: Any) -> GenerateRequest:
    return parse_model(orjson.dumps({"prompt": "hello", **fields}), GenerateRequest)


def told(*messages: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in chat(messages=messages).to_messages()]


@pytest.mark.parametrize("parse", [chat, generate], ids=["openai", "generate"])
@pytest.mark.parametrize("name", sorted(GENERATION_REFUSED))
def test_what_the_answer_would_depend_on_is_refused_by_name(name: str, parse: Any) -> None:
    """A refused parameter gives 400 with its name; null and values that change nothing are accepted."""
    with pytest.raises(InvalidRequest, match=f"^{name}: ") as caught:
        parse(**{name: DEMANDS.get(name, {"type": "demanded"})})
    assert caught.value.param == name
    for value in (None, *GENERATION_REFUSED[name].neutral):
        parse(**{name: value})


@pytest.mark.parametrize("name", sorted(EMBEDDINGS_REFUSED))
def test_embeddings_refuse_what_they_cannot_do(name: str) -> None:
    """A parameter that embeddings cannot support is refused by its name; null and neutral values are accepted."""
    body = {"model": "m", "input": "a", name: "demanded"}
    with pytest.raises(InvalidRequest, match=f"^{name}: "):
        parse_model(orjson.dumps(body), EmbeddingRequest)
    for value in (None, *EMBEDDINGS_REFUSED[name].neutral):
        parse_model(orjson.dumps({**body, name: value}), EmbeddingRequest)


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_the_answer_does_not_depend_on_is_accepted(name: str) -> None:
    """Parameters that do not change the answer, such as tools that need not be called, are accepted."""
    chat(**{name: [{"type": "function", "function": {"name": "f"}}]})


@pytest.mark.parametrize(
    "choice", ["auto", "none", {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}]
)
def test_tools_that_need_not_be_called_may_be_sent(choice: object) -> None:
    """`tools` are accepted with every form of `tool_choice` that allows an answer in text."""
    chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice=choice)


def test_no_parameter_is_both_read_and_refused() -> None:
    """The request models have the sampling parameters and their own fields, and no name is both read and refused."""
    read = ChatCompletionRequest.model_fields.keys() | GenerateRequest.model_fields.keys()
    own = {"task_type", "adapter", "session_id", "cache_salt", "weight", "continue_from"}
    chat_only = {"model", "messages", "prompt", "stream", "stream_options", "max_completion_tokens"}
    assert read == PARAMETERS.keys() | own | chat_only
    assert not read & GENERATION_REFUSED.keys()
    assert not read & IGNORED.keys()
    assert not GENERATION_REFUSED.keys() & IGNORED.keys()
    assert all(
        isinstance(rule, RefusedParameter) and rule.reason for rule in GENERATION_REFUSED.values()
    )


def test_null_is_as_good_as_left_out_at_every_level() -> None:
    """Every field that may be null in the API reference may be null here, in nested objects as well."""
    nothing = dict.fromkeys(
        ChatCompletionRequest.model_fields.keys() | GENERATION_REFUSED.keys() | IGNORED.keys()
    )
    message = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "name": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    body = {
        **nothing,
        **CHAT,
        "messages": [*HELLO, message],
        "stream_options": {"include_usage": None},
    }
    assert not parse_model(orjson.dumps(body), ChatCompletionRequest).stream
    empty = dict.fromkeys(GenerateRequest.model_fields)
    body = {**empty, "prompt": "hello", "adapter": {"version": None, "digest": None}}
    found = parse_model(orjson.dumps(body), GenerateRequest)
    assert (found.task_type, found.stream) == ("general", False)
    body = {"input": "a", "model": "m", "encoding_format": None, "dimensions": None, "user": None}
    parse_model(orjson.dumps(body), EmbeddingRequest)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"max_tokens": 0}, "max_tokens", id="no-tokens"),
        pytest.param({"max_completion_tokens": 0}, "max_completion_tokens", id="none-at-all"),
        pytest.param({"top_logprobs": 3}, "top_logprobs", id="alternatives-of-nothing"),
        pytest.param({"model": None}, "model", id="no-model"),
        pytest.param({"model": ""}, "model", id="empty-model"),
        pytest.param({"n": 129}, "n", id="many"),
        pytest.param({"logit_bias": {"50": 101}}, "logit_bias.50", id="strong-bias"),
        pytest.param({"logit_bias": {"x": 1}}, "logit_bias.x", id="bias-of-no-token"),
        pytest.param({"stop": 7}, "stop", id="stop-of-no-text"),
        pytest.param({"stop": ["a", 7]}, "stop", id="stop-with-a-number"),
        pytest.param({"adapter": 7}, "adapter", id="adapter-of-no-name"),
        pytest.param({"stream_options": 7}, "stream_options", id="no-object"),
        pytest.param({"messages": [7]}, "messages[0]", id="message-of-no-object"),
        pytest.param(
            {"messages": [{"role": "assistant", "tool_calls": [7]}]},
            "messages[0].tool_calls[0]",
            id="no-tool-call",
        ),
        pytest.param({"messages": [None]}, "messages[0]", id="no-message"),
        pytest.param({"stream_options": {"include_usage": "x"}}, *["stream_options.include_usage"]),
    ],
)
def test_the_parameter_at_fault_is_named(fields: dict[str, Any], param: str) -> None:
    """The error has the name of the wrong parameter in `param`; its message names no type of Python."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert not PYTHON_WORDS.search(str(caught.value))


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        (EmbeddingRequest, {"input": ["a", 1]}, "input"),
        (EmbeddingRequest, {"input": {"a": "b"}}, "input"),
        (EmbeddingRequest, {"input": [["a"]]}, "input"),
        (OllamaEmbedRequest, {"input": [True]}, "input"),
        (OllamaEmbeddingsRequest, {"prompt": "a", "dimensions": 5}, "dimensions"),
        (OllamaChatRequest, {"model": "m", "options": {"stop": 7}}, "options.stop"),
        (OllamaChatRequest, {"model": "m", "options": {"stop": ["a", 7]}}, "options.stop"),
        (OllamaChatRequest, {"model": "m", "options": 7}, "options"),
        (OllamaChatRequest, {"model": "m", "think": 7}, "think"),
        (GenerateRequest, {"prompt": "a", "adapter": 7}, "adapter"),
        (GenerateRequest, {"prompt": "a", "continue_from": 7}, "continue_from"),
        (GenerateRequest, {"prompt": "a", "continue_from": {}}, "continue_from.text"),
    ],
)
def test_a_wrong_type_is_told_by_the_field_that_was_sent(
    model: Any, body: dict[str, Any], param: str
) -> None:
    """The path of a wrong field consists of names that the client sent; the message names no type of Python."""
    with pytest.raises(InvalidRequest) as caught:
        parse_model(orjson.dumps(body), model)
    assert caught.value.param == param
    assert str(caught.value).startswith(f"{param}: ")
    assert not PYTHON_WORDS.search(str(caught.value))


def test_a_list_in_the_list_of_texts_is_not_called_token_numbers() -> None:
    """A list of lists of texts is refused for what it is; lists of numbers are called token numbers."""
    for given, says in (([["a"]], "a list inside the list"), ([[1, 2], [3]], "token numbers")):
        with pytest.raises(InvalidRequest, match=says):
            parse_model(orjson.dumps({"input": given}), EmbeddingRequest)


def test_what_our_client_sends_is_read_as_it_was_meant() -> None:
    """A request that the client writes for a replica is read by the replica with every sampling parameter unchanged."""
    sampling = Sampling(**EXAMPLES)
    assert all(getattr(sampling, f.name) != f.default for f in dataclasses.fields(Sampling))
    request = GenerationRequest(
        messages=(Message(role="user", content="hello"),), request_id="r", sampling=sampling
    )
    body = orjson.dumps(request_body(request, stream=True))
    assert parse_model(body, GenerateRequest).to_generation(request_id="r") == request


def test_zero_tokens_mean_the_default_on_generate() -> None:
    """On `/generate`, `max_tokens: 0`, which the earlier client sends, means the default."""
    assert generate(max_tokens=0).to_generation(request_id="r").sampling.max_tokens is None


@pytest.mark.parametrize(
    ("part", "says"),
    [
        pytest.param(
            {"type": "image_url", "image_url": {"url": "x"}}, "images are not", id="image"
        ),
        pytest.param({"type": "input_audio", "input_audio": {}}, "audio is not", id="audio"),
        pytest.param({"type": "file", "file": {}}, "files are not", id="file"),
        pytest.param({"type": "text"}, "must be", id="empty"),
        pytest.param("hello", "must be", id="bare"),
    ],
)
def test_a_part_that_is_no_text_is_named(part: object, says: str) -> None:
    """For a message part that is not text, the error has the message, the part and its type."""
    with pytest.raises(InvalidRequest, match=says) as caught:
        told({"role": "user", "content": [{"type": "text", "text": "a"}, part]})
    assert "messages.0.content: part 1" in str(caught.value)
    assert caught.value.param == "messages[0].content"


def test_a_message_of_the_system_alone_can_be_answered() -> None:
    """A request with only a system message is accepted; one with only blanks is refused."""
    assert told({"role": "system", "content": "Be brief."}) == [("system", "Be brief.")]
    with pytest.raises(PromptMissing):
        told({"role": "system", "content": " "})


def test_a_refusal_of_the_assistant_stays_its_words() -> None:
    """A refusal of the assistant, as a part or as a field, is read as the message's text."""
    part = {"type": "refusal", "refusal": "I cannot."}
    assert told({"role": "assistant", "content": [part]}) == [("assistant", "I cannot.")]
    assert told({"role": "assistant", "refusal": "No."}) == [("assistant", "No.")]


def test_tool_calls_and_results_of_the_history_become_text() -> None:
    """Tool calls and tool results in the history are read as text (ADR 0019)."""
    calls = [
        {"id": "a", "type": "function", "function": {"name": "sum", "arguments": '{"of": [1, 2]}'}},
        {"id": "b", "type": "custom", "custom": {"name": "note", "input": "three"}},
    ]
    assert told(
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "3"}]},
        {"role": "tool", "tool_call_id": "b", "content": "kept"},
        {"role": "assistant", "content": "Once more.", "function_call": {"name": "sum"}},
        {"role": "function", "name": "sum", "content": "0"},
    ) == [
        ("user", "Add."),
        ("assistant", '[Called sum with {"of": [1, 2]}]\n\n[Called note with three]'),
        ("user", "[Result of sum]\n3\n\n[Result of note]\nkept"),
        ("assistant", "Once more.\n\n[Called sum with nothing]"),
        ("user", "[Result of sum]\n0"),
    ]


@pytest.mark.parametrize(
    "call", [{"id": "a"}, {"type": "function", "function": {}}, {"type": "web", "web": {}}, "f"]
)
def test_a_tool_call_that_names_nothing_is_refused(call: object) -> None:
    """A tool call without a name is refused, as it would be lost from the text."""
    with pytest.raises(CallerError) as caught:
        told({"role": "assistant", "tool_calls": [call]})
    assert "messages.0.tool_calls.0" in str(caught.value)
