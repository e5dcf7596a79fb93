"""LlamaIndex, by its class for OpenAI-compatible servers."""

import asyncio
from importlib.metadata import version

import openai
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.program import LLMTextCompletionProgram
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from waits import TOOLS

CLIENT = (5, "llama-index-llms-openai-like", lambda: version("llama-index-llms-openai-like"))


class Pet(BaseModel):
    """A pet."""

    name: str
    age: int


@pytest.fixture
def make(url, key):
    def model(**more):
        fixed = {"model": "mongars", "api_base": url, "api_key": key, "is_chat_model": True}
        fixed |= {"context_window": 4096, "max_tokens": 16, "temperature": 0, "max_retries": 0}
        return OpenAILike(**{**fixed, "timeout": 60, **more})

    return model


def test_chat(make):
    answer = make().chat([ChatMessage("Say hello.")])
    assert answer.message.content
    assert answer.raw.usage.total_tokens > 0


def test_complete(make):
    assert make().complete("Say hello.").text


def test_streaming(make):
    *_, last = make().stream_chat([ChatMessage("Say hello.")])
    assert last.message.content == make().chat([ChatMessage("Say hello.")]).message.content


def test_system_message_and_several_turns(make):
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "And?")]
    assert make().chat([ChatMessage(text, role=role) for role, text in turns]).message.content


def test_async(make):
    assert asyncio.run(make().achat([ChatMessage("Say hello.")])).message.content


def test_context_exceeded(make, too_long):
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        make().chat([ChatMessage(too_long)])


def test_wrong_key(make):
    with pytest.raises(openai.AuthenticationError):
        make(api_key="nonsense").complete("Hi")


def test_unknown_model(make):
    with pytest.raises(openai.NotFoundError):
        make(model="gpt-9").complete("Hi")


def test_structured_output(make):
    model = make(
        max_tokens=200,
        additional_kwargs={
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "pet", "schema": Pet.model_json_schema()},
            }
        },
    )
    program = LLMTextCompletionProgram.from_defaults(
        output_cls=Pet, llm=model, prompt_template_str="A cat named Tom, aged 3."
    )
    assert isinstance(program(), Pet)


def test_tools_answered_with_text(make):
    tool = FunctionTool.from_defaults(lambda: "Rain.", name="weather", description="The weather.")
    model = make(is_function_calling_model=True)
    answer = model.chat_with_tools([tool], "Say hello.", tool_choice="auto")
    assert answer.message.content


@TOOLS
def test_structured_output_by_function_calling(make):
    model = make(is_function_calling_model=True, max_tokens=200)
    assert model.as_structured_llm(Pet).complete("A cat named Tom, aged 3.").raw.name


def test_completions(make):
    assert make(is_chat_model=False).complete("One, two,").text
