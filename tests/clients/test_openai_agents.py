"""OpenAI's Agents SDK."""

import asyncio
from importlib.metadata import version

import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel
from waits import RESPONSES, TOOLS

CLIENT = (8, "openai-agents", lambda: version("openai-agents"))
set_tracing_disabled(True)


class Pet(BaseModel):
    name: str
    age: int


@function_tool
def weather(town: str) -> str:
    """The weather of a town."""
    return f"Rain in {town}."


@pytest.fixture
def make(url, key):
    def agent(name="mongars", *, key=key, kind=OpenAIChatCompletionsModel, **more):
        client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=60, max_retries=0)
        settings = {"max_tokens": 16, "temperature": 0, **more.pop("settings", {})}
        return Agent(
            name="helper",
            model=kind(name, openai_client=client),
            model_settings=ModelSettings(**settings),
            **more,
        )

    return agent


def test_chat_with_instructions(make):
    found = Runner.run_sync(make(instructions="Be brief."), "Say hello.")
    assert found.final_output
    assert found.raw_responses[0].usage.output_tokens > 0


def test_streaming_with_usage(make):
    async def run():
        stream = Runner.run_streamed(make(settings={"include_usage": True}), "Say hello.")
        kinds = [
            e.data.type async for e in stream.stream_events() if e.type == "raw_response_event"
        ]
        return kinds, stream

    kinds, stream = asyncio.run(run())
    assert "response.output_text.delta" in kinds
    assert stream.final_output
    assert stream.raw_responses[0].usage.output_tokens > 0


def test_several_turns(make):
    first = Runner.run_sync(make(), "Say hello.")
    again = [*first.to_input_list(), {"role": "user", "content": "Again."}]
    assert Runner.run_sync(make(), again).final_output


def test_handoffs_answered_with_text(make):
    other = make()
    assert Runner.run_sync(make(handoffs=[other]), "Say hello.").final_output


def test_context_exceeded(make, too_long):
    with pytest.raises(openai.BadRequestError) as caught:
        Runner.run_sync(make(), too_long)
    assert caught.value.code == "context_length_exceeded"


def test_wrong_key(make):
    with pytest.raises(openai.AuthenticationError):
        Runner.run_sync(make(key="nonsense"), "Hi")


def test_unknown_model(make):
    with pytest.raises(openai.NotFoundError):
        Runner.run_sync(make("gpt-9"), "Hi")


def test_structured_output(make):
    agent = make(output_type=Pet, settings={"max_tokens": 200})
    assert isinstance(Runner.run_sync(agent, "A cat named Tom, aged 3.").final_output, Pet)


def test_tools_answered_with_text(make):
    assert Runner.run_sync(make(tools=[weather]), "Say hello.").final_output


@TOOLS
def test_forced_tool_call(make):
    agent = make(tools=[weather], settings={"tool_choice": "required"})
    assert Runner.run_sync(agent, "The weather of Bonn?").final_output


@RESPONSES
def test_responses(make):
    assert Runner.run_sync(make(kind=OpenAIResponsesModel), "Say hello.").final_output
