"""Pydantic AI."""

import asyncio
from importlib.metadata import version

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from waits import RESPONSES, TOOLS

CLIENT = (6, "pydantic-ai", lambda: version("pydantic-ai-slim"))
LIMITS = {"max_tokens": 16, "temperature": 0, "timeout": 60}


class Pet(BaseModel):
    name: str
    age: int


@pytest.fixture
def model(url, key):
    def make(name="mongars", *, key=key, kind=OpenAIChatModel):
        return kind(name, provider=OpenAIProvider(base_url=url, api_key=key))

    return make


def test_chat(model):
    found = Agent(model(), model_settings=LIMITS).run_sync("Say hello.")
    assert found.output
    assert found.usage.output_tokens > 0


def test_streaming_with_usage(model):
    async def run():
        async with Agent(model(), model_settings=LIMITS).run_stream("Say hello.") as stream:
            text = "".join([delta async for delta in stream.stream_text(delta=True)])
            return text, stream.usage

    text, usage = asyncio.run(run())
    assert text
    assert usage.output_tokens > 0


def test_system_message_and_several_turns(model):
    agent = Agent(model(), instructions="Be brief.", model_settings=LIMITS)
    first = agent.run_sync("Say hello.")
    again = agent.run_sync("And again.", message_history=first.all_messages())
    assert again.output
    assert again.usage.input_tokens > first.usage.input_tokens


def test_context_exceeded(model, too_long):
    with pytest.raises(ModelHTTPError) as caught:
        Agent(model(), model_settings=LIMITS).run_sync(too_long)
    assert caught.value.status_code == 400
    assert caught.value.body["code"] == "context_length_exceeded"


def test_wrong_key(model):
    with pytest.raises(ModelHTTPError) as caught:
        Agent(model(key="nonsense")).run_sync("Hi")
    assert caught.value.status_code == 401


def test_unknown_model(model):
    with pytest.raises(ModelHTTPError) as caught:
        Agent(model("gpt-9")).run_sync("Hi")
    assert caught.value.status_code == 404


def test_fallback_after_an_error(model):
    both = FallbackModel(model("gpt-9"), model())
    assert Agent(both, model_settings=LIMITS).run_sync("Say hello.").output


def test_structured_output(model):
    agent = Agent(
        model(), output_type=NativeOutput(Pet), model_settings={**LIMITS, "max_tokens": 200}
    )
    assert isinstance(agent.run_sync("A cat named Tom, aged 3.").output, Pet)


def test_tools_answered_with_text(model):
    agent = Agent(model(), model_settings=LIMITS)
    agent.tool_plain(weather)
    assert agent.run_sync("Say hello.").output


def weather(town: str) -> str:
    """The weather of a town."""
    return f"Rain in {town}."


@TOOLS
def test_structured_output_by_function_calling(model):
    agent = Agent(model(), output_type=Pet, model_settings={**LIMITS, "max_tokens": 200})
    assert agent.run_sync("A cat named Tom, aged 3.").output


@RESPONSES
def test_responses(model):
    agent = Agent(model(kind=OpenAIResponsesModel), model_settings=LIMITS)
    assert agent.run_sync("Say hello.").output
