"""Requests to Ollama and responses of the fake Ollama, read by the types of the official client."""

from __future__ import annotations

import ollama
import orjson
import pytest
from ollama import ChatResponse
from ollama._types import ChatRequest

from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.protocol.ollama import chat_request
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.faults import Echo, Fault, FaultyResponse

MESSAGES = [{"role": "user", "content": "good morning"}]


def test_what_we_send_is_a_request_of_the_official_client() -> None:
    """Every field of a request has the name, the place and the type that the official client has for it."""
    body = chat_request(
        GenerationRequest(
            messages=(
                Message(role="system", content="Be kind."),
                Message(role="user", content="Hi"),
            ),
            request_id="req-1",
            sampling=Sampling(
                max_tokens=5,
                temperature=0.5,
                top_p=0.9,
                stop=("END",),
                seed=7,
                presence_penalty=0.1,
                frequency_penalty=0.2,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "object"}},
                },
            ),
        ),
        model="fake",
    )
    # Newer than the client's types, documented by the server.
    del body["truncate"], body["shift"]
    read = ChatRequest.model_validate(body)
    told = read.model_dump(exclude_none=True)
    assert orjson.loads(orjson.dumps(told)) == body


@pytest.mark.parametrize(
    "fault", [FaultyResponse(text="good day to you"), Echo()], ids=["answer", "echo"]
)
async def test_what_our_fake_answers_is_read_by_the_official_client(fault: Fault) -> None:
    """The official client reads streams and the list of models from the fake Ollama."""
    async with FakeOllama() as server:
        server.always = fault
        async with ollama.AsyncClient(host=server.base, trust_env=False) as client:
            stream = await client.chat(model="fake", messages=MESSAGES, stream=True)
            parts = [part async for part in stream]
            listed = await client.list()
    assert all(isinstance(part, ChatResponse) for part in parts)
    assert "".join(part.message.content or "" for part in parts)
    assert parts[-1].done
    assert parts[-1].eval_count
    assert [model.model for model in listed.models] == ["fake:latest"]


async def test_refusal_reaches_the_official_client_as_its_own_error() -> None:
    """For an unknown model the official client raises its own error, with 404 and the server's message."""
    async with (
        FakeOllama() as server,
        ollama.AsyncClient(host=server.base, trust_env=False) as client,
    ):
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            await client.chat(model="other", messages=MESSAGES)
    assert caught.value.status_code == 404
