"""The answer cache, as a client of the API sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

QUESTION = [{"role": "user", "content": "good morning"}]
ANSWER = "[1] you said: good morning"


@pytest.fixture
async def keeping(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> AsyncIterator[Api]:
    async with start_api(cache_bytes=1024 * 1024) as started:
        yield started


async def ask(api: Api, key: str | None = None, **body: Any) -> tuple[dict[str, Any], str | None]:
    """The response body of a chat request at temperature 0, and its `x-llm-cache` header."""
    headers = {"Authorization": f"Bearer {key or api.key}"}
    question = {"model": "mongars", "messages": QUESTION, "temperature": 0, **body}
    async with api.http.post(
        f"{api.url}/v1/chat/completions", json=question, headers=headers
    ) as response:
        assert response.status == 200
        return await response.json(), response.headers.get("x-llm-cache")


async def test_equal_questions_of_one_user_are_answered_once(keeping: Api) -> None:
    """One user's repeated request is a cache hit, another user's is a miss; sampling without a seed is not cached."""
    first, use = await ask(keeping)
    assert use == "miss"
    again, use = await ask(keeping)
    assert use == "hit"
    assert again["choices"] == first["choices"]
    assert again["usage"] == first["usage"]
    assert again["id"] != first["id"]
    assert (await ask(keeping, key=keeping.other_key))[1] == "miss"
    assert (await ask(keeping, temperature=0.7))[1] is None
    assert (await ask(keeping, temperature=0.7, seed=3))[1] == "miss"


async def test_a_stored_answer_streams_as_a_new_one_does(keeping: Api) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{keeping.url}/v1", api_key=keeping.key, max_retries=0
    ) as client:
        for expected in ("miss", "hit"):
            raw = await client.chat.completions.with_raw_response.create(
                model="mongars",
                messages=QUESTION,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
            assert raw.headers["x-llm-cache"] == expected
            chunks = [chunk async for chunk in raw.parse()]
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert text == ANSWER
            assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
            assert chunks[-1].usage is not None


async def test_hits_are_counted_and_their_tokens_are_not(keeping: Api) -> None:
    """Cache hits are counted as successful requests in the metrics, but their tokens are not counted again."""
    for _ in range(3):
        await ask(keeping)
    async with keeping.http.get(f"{keeping.url}/metrics", headers=keeping.auth) as response:
        lines = (await response.text()).splitlines()
    assert 'llm_cache_total{outcome="miss"} 1.0' in lines
    assert 'llm_cache_total{outcome="hit"} 2.0' in lines
    assert 'llm_requests_total{outcome="success"} 3.0' in lines
    assert 'llm_tokens_total{provider="embedded",type="output"} 5.0' in lines


async def test_without_a_cache_there_is_no_cache_header(api: Api) -> None:
    assert [(await ask(api))[1] for _ in range(2)] == [None, None]
