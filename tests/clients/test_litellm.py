"""LiteLLM as a library."""

import asyncio
import json
from importlib.metadata import version

import litellm
import pytest
from waits import RESPONSES, TOOLS

CLIENT = (4, "litellm", lambda: version("litellm"))
HELLO = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def options(url, key):
    return {
        "model": "openai/mongars",
        "api_base": url,
        "api_key": key,
        "max_tokens": 16,
        "temperature": 0,
        "timeout": 60,
        "num_retries": 0,
    }


def ask(options, messages=HELLO, **more):
    return litellm.completion(**{**options, "messages": messages, **more})


def test_chat(options):
    answer = ask(options)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


def test_streaming_with_usage(options):
    chunks = list(ask(options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ask(options).choices[0].message.content
    assert chunks[-1].usage.completion_tokens > 0


def test_system_message_and_several_turns(options):
    turns = [{"role": "system", "content": "Be brief."}, *HELLO]
    turns += [{"role": "assistant", "content": "Hello."}, *HELLO]
    assert ask(options, turns).choices[0].message.content


def test_async(options):
    answer = asyncio.run(litellm.acompletion(**options, messages=HELLO))
    assert answer.choices[0].message.content


def test_context_exceeded(options, too_long):
    with pytest.raises(litellm.ContextWindowExceededError):
        ask(options, [{"role": "user", "content": too_long}])


def test_wrong_key(options):
    with pytest.raises(litellm.AuthenticationError):
        ask(options, api_key="nonsense")


def test_unknown_model(options):
    with pytest.raises(litellm.NotFoundError):
        ask(options, model="openai/gpt-9")


def test_timeout(options):
    with pytest.raises((litellm.Timeout, litellm.InternalServerError)):
        ask(options, timeout=0.05, max_tokens=500, max_retries=0)


def test_router_falls_back(options):
    deployments = [
        {"model_name": name, "litellm_params": {**options, "model": model}}
        for name, model in (("first", "openai/gpt-9"), ("second", "openai/mongars"))
    ]
    router = litellm.Router(deployments, fallbacks=[{"first": ["second"]}], num_retries=0)
    assert router.completion("first", HELLO).choices[0].message.content


def test_json_mode(options):
    found = ask(options, response_format={"type": "json_object"}, max_tokens=1000)
    assert isinstance(json.loads(found.choices[0].message.content), dict)


def test_tools_answered_with_text(options):
    assert ask(options, tools=[TOOL], tool_choice="auto").choices[0].message.content


@TOOLS
def test_forced_tool_call(options):
    answer = ask(options, tools=[TOOL], tool_choice="required")
    assert answer.choices[0].message.tool_calls


def test_embeddings(options):
    kept = {name: options[name] for name in ("model", "api_base", "api_key")}
    assert litellm.embedding(input=["Hello"], **kept).data


def test_completions(options):
    named = {**options, "model": "text-completion-openai/mongars"}
    assert litellm.text_completion(prompt="One, two,", **named).choices


@RESPONSES
def test_responses(options):
    kept = {name: options[name] for name in ("model", "api_base", "api_key")}
    assert litellm.responses(input="Say hello.", max_output_tokens=16, **kept).output
