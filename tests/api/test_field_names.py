"""Errors name the fields that the client of each route has sent, not those of another protocol."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from mongars.engines.fake_embedder import FakeEmbedder
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

    Start = Callable[..., AbstractAsyncContextManager[Api]]

LONG = "word " * 300
MESSAGES = [{"role": "user", "content": LONG}]
NOT: dict[str, Any] = {"not": {}}


async def refused(api: Api, path: str, body: dict[str, Any]) -> str:
    """The text of the response, which must have the status of an invalid request."""
    sent = {"model": "mongars", **body}
    async with api.http.post(api.url + path, json=sent, headers=api.auth) as response:
        assert response.status in {400, 422}, await response.text()
        return await response.text()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, "messages"),
        ("/v1/completions", {"prompt": LONG}, "prompt"),
        ("/api/chat", {"messages": MESSAGES}, "messages"),
        ("/api/generate", {"prompt": LONG}, "prompt"),
        ("/api/v1/conversation/chat", {"message": LONG}, "message"),
    ],
)
async def test_a_prompt_that_is_too_long_is_named(
    api: Api, *, path: str, body: dict[str, Any], field: str, stream: bool
) -> None:
    """For too long a prompt, message and `param` have the field with the prompt, and the numbers stay."""
    text = await refused(api, path, {**body, "stream": stream})
    assert f"reduce the length of the {field}." in text
    assert re.search("3[0-9][0-9] tokens", text)
    answer = json.loads(text)
    found = answer["error"] if path.startswith("/v1") else answer
    if not path.startswith("/api/chat") and not path.startswith("/api/generate"):
        assert found["param"] == field
        assert found["prompt_tokens"] > 300


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_replicas_refusal_is_named_too(start_api: Start, *, stream: bool) -> None:
    """A refusal that a replica reports has the client's field name as well."""
    body = {
        "error": "context_length_exceeded",
        "detail": "The prompt is too long. Please reduce the length of the messages.",
        "param": "messages",
        "prompt_tokens": 9000,
        "context_tokens": 8000,
    }
    async with (
        FakeReplica(Status(code=400, body=body)) as replica,
        start_api(endpoints=(replica.url,)) as api,
    ):
        text = await refused(api, "/v1/completions", {"prompt": LONG, "stream": stream})
    assert "length of the prompt." in text
    assert "messages" not in text


@pytest.mark.parametrize(
    ("path", "field", "name"),
    [
        ("/v1/completions", "response_format", "response_format"),
        ("/api/chat", "format", "format"),
        ("/api/generate", "format", "format"),
    ],
)
async def test_a_format_that_no_engine_enforces_is_named(
    api: Api, path: str, field: str, name: str
) -> None:
    """A schema that the engine cannot enforce is refused by the name of the field that held it."""
    schema: object = {"type": "json_schema", "json_schema": {"name": "x", "schema": NOT}}
    short = {"prompt": "hello", "messages": [{"role": "user", "content": "hello"}]}
    text = await refused(api, path, {**short, field: NOT if field == "format" else schema})
    assert f"{name}: " in text
    assert ("response_format" in text) == (field == "response_format")


async def test_a_text_that_is_too_long_to_embed_is_named(start_api: Start) -> None:
    """`/v1/embeddings` and `/api/embed` name `input`, the older `/api/embeddings` names `prompt`."""
    embedder = FakeEmbedder(model="fake-embedding")
    async with start_api(embedder=embedder, embedding_model="fake-embedding") as api:
        for path, field in (
            ("/v1/embeddings", "input"),
            ("/api/embed", "input"),
            ("/api/embeddings", "prompt"),
        ):
            text = await refused(api, path, {field: "word " * 600})
            assert f"reduce the length of the {field}" in text, text
            assert "messages" not in text
