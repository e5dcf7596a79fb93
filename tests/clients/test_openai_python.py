"""The official Python client."""

import asyncio
import json
from importlib.metadata import version

import openai
import pytest
from pydantic import BaseModel
from waits import RESPONSES, TOOLS

CLIENT = (1, "openai (Python)", lambda: version("openai"))
HELLO = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


class Pet(BaseModel):
    name: str
    age: int


@pytest.fixture
def client(url, key):
    with openai.OpenAI(base_url=url, api_key=key, timeout=60) as opened:
        yield opened


def ask(client, messages=HELLO, **more):
    return client.chat.completions.create(
        **{"model": "mongars", "messages": messages, "max_tokens": 16, "temperature": 0, **more}
    )


def test_chat(client):
    answer = ask(client)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.refusal is None
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streaming_with_usage(client):
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ask(client).choices[0].message.content
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_helper(client):
    with client.chat.completions.stream(
        model="mongars", messages=HELLO, max_tokens=200, temperature=0
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        assert "".join(deltas) == stream.get_final_completion().choices[0].message.content


def test_system_message(client):
    system = {"role": "system", "content": "You are a pirate."}
    told = ask(client, [system, *HELLO])
    assert told.usage.prompt_tokens != ask(client).usage.prompt_tokens


def test_several_turns(client):
    first = ask(client).choices[0].message
    again = [*HELLO, first, {"role": "user", "content": [{"type": "text", "text": "Again!"}]}]
    assert ask(client, again).choices[0].message.content


def test_async(url, key):
    async def run():
        async with openai.AsyncOpenAI(base_url=url, api_key=key) as client:
            stream = await ask(client, stream=True)
            return [chunk async for chunk in stream]

    assert asyncio.run(run())[-1].choices[0].finish_reason


def test_more_at_once_than_slots(url, key):
    async def run():
        async with (
            openai.AsyncOpenAI(base_url=url, api_key=key, timeout=120) as client,
            asyncio.TaskGroup() as group,
        ):
            return [group.create_task(ask(client)) for _ in range(12)]

    assert all(task.result().choices[0].message.content for task in asyncio.run(run()))


def test_server_away(key):
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key=key, max_retries=1)
    with pytest.raises(openai.APIConnectionError):
        ask(client)


def test_seed_stop_n_and_logprobs(client):
    answer = ask(client, n=2, seed=7, stop=["zebra"], logprobs=True, top_logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(len(token.top_logprobs) == 2 for token in answer.choices[0].logprobs.content)


def test_models(client):
    assert "mongars" in [model.id for model in client.models.list()]
    assert client.models.retrieve("mongars").id == "mongars"


def test_raw_response(client):
    raw = client.chat.completions.with_raw_response.create(
        model="mongars", messages=HELLO, max_tokens=1
    )
    assert raw.headers["x-llm-provider"]
    assert raw.parse()._request_id == raw.headers["x-request-id"]


def test_context_exceeded(client, too_long):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, [{"role": "user", "content": too_long}])
    assert caught.value.code == "context_length_exceeded"


def test_wrong_key(url):
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(openai.OpenAI(base_url=url, api_key="nonsense"))
    assert caught.value.code == "invalid_api_key"


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_wrong_parameter(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, temperature=9)
    assert caught.value.param == "temperature"


def test_timeout(client):
    with pytest.raises(openai.APIError) as caught:
        ask(client.with_options(timeout=0.05, max_retries=0), max_tokens=500)
    # The client sends its timeout to the server, so either may time out first.
    timed_out = isinstance(caught.value, openai.APITimeoutError)
    assert timed_out or caught.value.status_code == 504


def test_json_mode(client):
    messages = [{"role": "user", "content": "A cat named Tom, aged 3, as JSON."}]
    answer = ask(client, messages, response_format={"type": "json_object"}, max_tokens=1000)
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_structured_output(client):
    found = client.chat.completions.parse(
        model="mongars",
        messages=[{"role": "user", "content": "A cat named Tom, aged 3."}],
        response_format=Pet,
        max_tokens=200,
        temperature=0,
    )
    assert isinstance(found.choices[0].message.parsed, Pet)


def test_tools_answered_with_text(client):
    assert ask(client, tools=[TOOL], tool_choice="auto").choices[0].message.content


@TOOLS
def test_forced_tool_call(client):
    assert ask(client, tools=[TOOL], tool_choice="required").choices[0].message.tool_calls


def test_forced_tool_call_is_refused_by_name(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, tools=[TOOL], tool_choice="required")
    assert caught.value.param == "tool_choice"


def test_embeddings(client):
    assert client.embeddings.create(model="mongars", input="Hello").data[0].embedding


def test_completions(client):
    assert client.completions.create(model="mongars", prompt="One, two,", max_tokens=4).choices


@RESPONSES
def test_responses(client):
    answer = client.responses.create(model="mongars", input="Hello", max_output_tokens=16)
    assert answer.output_text
