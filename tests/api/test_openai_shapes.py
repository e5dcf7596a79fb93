"""Fields, error codes and headers of the OpenAI endpoints that client libraries parse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest
from openai_client import QUESTION, client_of
from yarl import URL

from mongars.engines.fake import FakePlan

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api


async def test_an_answer_has_the_shape_of_the_reference(api: Api) -> None:
    """Answers and models have the fields of OpenAI's reference, `refusal` and `system_fingerprint` included."""
    async with client_of(api) as client:
        whole = await client.chat.completions.create(
            model="mongars", messages=QUESTION, logprobs=True, top_logprobs=0
        )
        stream = await client.chat.completions.create(
            model="mongars",
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        models = (await client.models.list()).data
    (choice,) = whole.choices
    assert "refusal" in choice.message.model_fields_set
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [entry.top_logprobs for entry in choice.logprobs.content] == [[]] * 5
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}
    assert whole.system_fingerprint
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len({model.created for model in models}) == 1
    assert models[0].created > 1_700_000_000


async def test_errors_have_the_codes_of_openai(api: Api) -> None:
    """Errors have OpenAI's codes and parameter names, by which clients distinguish them."""
    long = [{"role": "user", "content": "word " * 300}]
    async with client_of(api, key="mg-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as wrong:
            await client.models.list()
    async with client_of(api) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="gpt-9", messages=QUESTION)
        with pytest.raises(openai.BadRequestError) as full:
            await client.chat.completions.create(model="mongars", messages=long)
    assert (wrong.value.code, wrong.value.type) == ("invalid_api_key", "invalid_request_error")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert (full.value.code, full.value.param) == ("context_length_exceeded", "messages")
    # LiteLLM and LangChain search for these texts in the official client's error.
    text = str(full.value)
    assert "this model's maximum context length is" in text.lower()
    assert "prompt is too long" in full.value.message
    assert "200" in text
    assert "301" in text


async def test_a_wait_the_client_chose_is_its_own_to_repeat(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    """A 504 after the client's own timeout does not forbid a retry; a 504 after the server's timeout does."""
    async with start_api(FakePlan(first_token_delay=5), answer_timeout=0.5) as api:
        url, body = f"{api.url}/v1/chat/completions", {"model": "mongars", "messages": QUESTION}
        for given, forbidden in (
            ({"X-Request-Timeout-Ms": "100"}, None),
            ({"x-stainless-read-timeout": "0.1"}, None),
            ({"x-stainless-read-timeout": "600"}, "false"),
            ({"X-Request-Timeout-Ms": "60000"}, "false"),
            ({}, "false"),
        ):
            headers = {**api.auth, **given}
            async with api.http.post(url, json=body, headers=headers) as response:
                assert response.status == 504
                assert response.headers.get("x-should-retry") == forbidden, given


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v1/models/nothing", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/internal/endpoints", 403),
        ("POST", "/token", 422),
        ("POST", "/v1/chat/completions", 400),
        ("POST", "/api/v1/conversation/chat", 422),
        ("GET", "/api/v1/conversation/history", 200),
    ],
)
async def test_every_response_names_its_request(
    api: Api, method: str, path: str, status: int
) -> None:
    """Every response has exactly one `x-request-id`, the one that the client sent."""
    headers = {**api.auth, "X-Request-Id": "my-own-id"}
    async with api.http.request(method, api.url + path, headers=headers) as response:
        assert response.status == status
        assert response.headers.getall("x-request-id") == ["my-own-id"]


async def test_a_model_name_with_slashes_is_found(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    """A model name with slashes is found at `/v1/models/NAME`, with the slashes escaped or not."""
    name = "org/model-7b"
    async with start_api(model_name=name) as api:
        async with client_of(api) as client:
            assert (await client.models.retrieve(name)).id == name
        for path in ("org/model-7b", "org%2Fmodel-7b"):
            url = URL(f"{api.url}/v1/models/{path}", encoded=True)
            async with api.http.get(url, headers=api.auth) as response:
                assert (await response.json())["id"] == name
