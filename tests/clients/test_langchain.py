"""LangChain's OpenAI package."""

import asyncio
from importlib.metadata import version

import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from waits import RESPONSES, TOOLS

CLIENT = (3, "langchain-openai", lambda: version("langchain-openai"))


class Pet(BaseModel):
    """A pet."""

    name: str
    age: int


@tool
def weather(town: str) -> str:
    """The weather of a town."""
    return f"Rain in {town}."


@pytest.fixture
def make(url, key):
    def model(**more):
        fixed = {"model": "mongars", "base_url": url, "api_key": key, "max_tokens": 16}
        return ChatOpenAI(**{**fixed, "temperature": 0, "timeout": 60, **more})

    return model


def test_chat(make):
    answer = make().invoke("Say hello.")
    assert answer.text
    assert answer.usage_metadata["total_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in {"stop", "length"}


def test_streaming_with_usage(make):
    whole = None
    for chunk in make(stream_usage=True).stream("Say hello."):
        whole = chunk if whole is None else whole + chunk
    assert whole.text == make().invoke("Say hello.").text
    assert whole.usage_metadata["output_tokens"] > 0


def test_async_and_batch(make):
    async def run():
        return [chunk.text async for chunk in make().astream("Say hello.")]

    assert "".join(asyncio.run(run()))
    assert len(make().batch(["One.", "Two."])) == 2


def test_system_message_and_several_turns(make):
    turns = [
        SystemMessage("Be brief."),
        HumanMessage("Hi"),
        AIMessage("Hello"),
        HumanMessage("And?"),
    ]
    assert make().invoke(turns).text


def test_chain(make):
    chain = ChatPromptTemplate.from_messages([("user", "Say {word}.")]) | make()
    assert chain.invoke({"word": "hello"}).text


def test_context_exceeded(make, too_long):
    with pytest.raises(ContextOverflowError):
        make().invoke(too_long)


def test_wrong_key(make):
    with pytest.raises(openai.AuthenticationError):
        make(api_key="nonsense").invoke("Hi")


def test_unknown_model(make):
    with pytest.raises(openai.NotFoundError):
        make(model="gpt-9").invoke("Hi")


def test_fallback_after_an_error(make):
    assert make(model="gpt-9").with_fallbacks([make()]).invoke("Hi").text


def test_structured_output(make):
    pets = make(max_tokens=200).with_structured_output(Pet, method="json_schema")
    assert isinstance(pets.invoke("A cat named Tom, aged 3."), Pet)


def test_json_mode(make):
    things = make(max_tokens=1000).with_structured_output(None, method="json_mode")
    assert isinstance(things.invoke("A cat named Tom, aged 3, as JSON."), dict)


def test_tools_answered_with_text(make):
    assert make().bind_tools([weather]).invoke("Say hello.").text


@TOOLS
def test_structured_output_by_function_calling(make):
    pets = make(max_tokens=200).with_structured_output(Pet, method="function_calling")
    assert isinstance(pets.invoke("A cat named Tom, aged 3."), Pet)


def test_embeddings(url, key):
    vectors = OpenAIEmbeddings(
        model="mongars", base_url=url, api_key=key, check_embedding_ctx_length=False
    )
    assert vectors.embed_query("Hello")


def test_completions(url, key):
    assert OpenAI(model="mongars", base_url=url, api_key=key, max_tokens=4).invoke("One, two,")


@RESPONSES
def test_responses(make):
    assert make(use_responses_api=True).invoke("Say hello.").text
