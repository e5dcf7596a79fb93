"""Instructor."""

import asyncio
from importlib.metadata import version

import instructor
import openai
import pytest
from pydantic import BaseModel
from waits import TOOLS

CLIENT = (7, "instructor", lambda: version("instructor"))
ASKED = {
    "model": "mongars",
    "messages": [{"role": "user", "content": "A cat named Tom, aged 3."}],
    "max_tokens": 200,
    "temperature": 0,
    "max_retries": 1,
}


class Pet(BaseModel):
    name: str
    age: int


@pytest.fixture
def make(url, key):
    def patched(mode, kind=openai.OpenAI, **more):
        return instructor.from_openai(
            kind(**{"base_url": url, "api_key": key, "timeout": 60, **more}), mode=mode
        )

    return patched


def test_structured_output_by_schema(make):
    client = make(instructor.Mode.JSON_SCHEMA)
    assert isinstance(client.chat.completions.create(response_model=Pet, **ASKED), Pet)


def test_streamed_structured_output(make):
    client = make(instructor.Mode.JSON_SCHEMA)
    *_, last = client.chat.completions.create_partial(response_model=Pet, **ASKED)
    assert (last.name is not None, last.age is not None) == (True, True)


def test_async_structured_output(make):
    client = make(instructor.Mode.JSON_SCHEMA, openai.AsyncOpenAI)
    found = asyncio.run(client.chat.completions.create(response_model=Pet, **ASKED))
    assert isinstance(found, Pet)


def test_chat(make):
    client = make(instructor.Mode.JSON_SCHEMA)
    answer = client.chat.completions.create(response_model=None, **{**ASKED, "max_tokens": 8})
    assert answer.choices[0].message.content


def test_wrong_key(make):
    client = make(instructor.Mode.JSON_SCHEMA, api_key="nonsense")
    with pytest.raises(Exception, match="401"):
        client.chat.completions.create(response_model=Pet, **ASKED)


def test_context_exceeded(make, too_long):
    client = make(instructor.Mode.JSON_SCHEMA)
    asked = {**ASKED, "messages": [{"role": "user", "content": too_long}]}
    with pytest.raises(Exception, match="context_length_exceeded"):
        client.chat.completions.create(response_model=Pet, **asked)


@TOOLS
def test_structured_output_by_function_calling(make):
    client = make(instructor.Mode.TOOLS)
    assert isinstance(client.chat.completions.create(response_model=Pet, **ASKED), Pet)
