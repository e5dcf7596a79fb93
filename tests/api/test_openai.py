"""OpenAI's chat API, tested with the official client and with raw HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import openai
import orjson
import pytest
from openai_client import ANSWER, QUESTION, client_of

from mongars.engines.fake import FakePlan
from mongars.protocol.sse import EventSplitter
from support import eventually, impatient

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api


async def test_official_client_gets_a_whole_answer(api: Api) -> None:
    """The `openai` client reads text, finish reason and usage from a whole answer."""
    async with client_of(api) as client:
        answer = await client.chat.completions.create(model="mongars", messages=QUESTION)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 5)


async def test_official_client_gets_the_same_as_a_stream(api: Api) -> None:
    """A streamed answer has one id, one role, the same text, a finish reason and the requested usage."""
    async with client_of(api) as client:
        stream = await client.chat.completions.create(
            model="fake", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


async def test_usage_is_streamed_only_if_requested(api: Api) -> None:
    """Without `stream_options`, every streamed chunk has a choice, and no chunk is only for usage."""
    async with client_of(api) as client:
        stream = await client.chat.completions.create(model="fake", messages=QUESTION, stream=True)
        assert all([chunk.choices async for chunk in stream])


async def test_official_client_lists_models(api: Api) -> None:
    """The served model and its alias are listed and can be looked up."""
    async with client_of(api) as client:
        names = [model.id async for model in client.models.list()]
        assert names == ["fake", "mongars"]
        assert (await client.models.retrieve("fake")).id == "fake"


async def test_odd_values_of_real_clients_are_tolerated(api: Api) -> None:
    """A developer role, text parts, and null or unknown parameters do not fail a request."""
    async with client_of(api) as client:
        answer = await client.chat.completions.create(
            model="mongars",
            messages=[
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "good morning"}]},
            ],
            extra_body={"prediction": None, "metadata": {"a": "b"}, "service_tier": "auto"},
        )
    assert answer.choices[0].message.content == "[2] you said: good morning"


async def test_answers_say_where_they_came_from(api: Api) -> None:
    """Response headers have the request id, the provider, the attempts, the fallback and the adapter."""
    body = {"model": "mongars", "messages": QUESTION}
    headers = {**api.auth, "X-Request-Id": "my-own-id"}
    async with api.http.post(
        f"{api.url}/v1/chat/completions", json=body, headers=headers
    ) as response:
        assert response.status == 200
        assert response.headers["x-request-id"] == "my-own-id"
        assert response.headers["x-llm-provider"] == "embedded"
        assert response.headers["x-llm-attempts"] == "1"
        assert response.headers["x-llm-fallback"] == "false"
        assert response.headers["x-adapter-version"] == "baseline"


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        pytest.param(b"{oops", 400, "invalid_request", "parse JSON", id="malformed"),
        pytest.param(b"{}", 400, "invalid_request", "messages", id="no-messages"),
        pytest.param(
            b'{"model": "fake", "messages": []}', 400, "prompt_missing", "no message", id="empty"
        ),
        pytest.param(
            b'{"model": "fake", "messages": [{"role": "user", "content": " "}]}',
            *(400, "prompt_missing", "no message"),
            id="blank",
        ),
        pytest.param(b'{"messages": "hi"}', 400, "invalid_request", "messages", id="wrong-type"),
        pytest.param(
            b'{"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]}',
            *(404, "model_not_found", "gpt-9"),
            id="unknown-model",
        ),
        pytest.param(
            b'{"model": "fake", "messages": [{"role": "user", "content": "'
            + b"word " * 300
            + b'"}]}',
            *(400, "context_length_exceeded", "200"),
            id="beyond-context",
        ),
        pytest.param(
            b'{"model": "fake", "messages": [{"role": "user", "content": "'
            + b"x" * 1_000_000
            + b'"}]}',
            *(413, "too_large", "1000000"),
            id="one-megabyte",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_bad_input_gets_a_status_and_a_reason(
    api: Api, *, body: bytes, status: int, code: str, says: str, stream: bool
) -> None:
    """Invalid input gets an error status, code and message, also if a stream was requested."""
    if stream and body.endswith(b"}"):
        body = body[:-1] + (b"," if len(body) > 2 else b"") + b'"stream": true}'
    url = f"{api.url}/v1/chat/completions"
    async with api.http.post(url, data=body, headers=api.auth) as response:
        error = (await response.json())["error"]
        assert response.status == status
        assert error["code"] == code
        assert says in error["message"]
        assert response.headers["x-should-retry"] == "false"


async def test_context_error_carries_both_numbers(api: Api) -> None:
    """The error for too long a prompt has the prompt's tokens and the limit as numbers."""
    body = {"model": "fake", "messages": [{"role": "user", "content": "word " * 300}]}
    url = f"{api.url}/v1/chat/completions"
    async with api.http.post(url, json=body, headers=api.auth) as response:
        error = (await response.json())["error"]
    assert error["prompt_tokens"] == 301
    assert error["context_tokens"] == 200


@pytest.mark.parametrize(
    ("demanded", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"extra_body": {"grammar": 'root ::= "x"'}}, "grammar"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
async def test_a_demand_that_cannot_be_met_is_refused_by_name(
    api: Api, demanded: dict[str, object], param: str
) -> None:
    """An unsupported or invalid parameter gets 400 with the parameter's name."""
    async with client_of(api) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="mongars", messages=QUESTION, **demanded)
    assert caught.value.param == param


async def test_tools_that_need_not_be_called_are_answered_with_text(api: Api) -> None:
    """With `tool_choice` `auto`, tools and tool calls in the history do not fail; the answer is text."""
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    async with client_of(api) as client:
        answer = await client.chat.completions.create(
            model="mongars",
            messages=[
                *QUESTION,
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "rain"},
            ],
            tools=[{"type": "function", "function": {"name": "look", "parameters": {}}}],
            tool_choice="auto",
        )
    assert answer.choices[0].message.content == "[3] you said: [Result of look] rain"


async def test_a_bias_reaches_the_engine(api: Api) -> None:
    """A `logit_bias` of -100 removes its token (the fake engine's second word) from the answer."""
    async with client_of(api) as client:
        answer = await client.chat.completions.create(
            model="mongars", messages=QUESTION, logit_bias={"1": -100}
        )
    assert answer.choices[0].message.content == "[1] said: good morning"


@pytest.mark.parametrize("key", ["mg-wrong", ""], ids=["unknown", "empty"])
async def test_bad_key_is_refused(api: Api, key: str) -> None:
    """Without a valid key, models, metrics and history answer 401 with a reason."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for path in ("/v1/models", "/metrics", "/api/v1/conversation/history"):
        async with api.http.get(api.url + path, headers=headers) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert "key" in (await response.text()).lower()


async def test_cut_stream_ends_with_an_error_event(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    """A stream that breaks off after two tokens ends with an error event and without `[DONE]`."""
    plan = FakePlan(cut_after_tokens=2)
    async with start_api(plan) as api:
        body = {"model": "mongars", "messages": QUESTION, "stream": True}
        url = f"{api.url}/v1/chat/completions"
        async with api.http.post(url, json=body, headers=api.auth) as response:
            events = EventSplitter().feed(await response.read())
        assert events[-1].name == "error"
        assert orjson.loads(events[-1].data)["error"]["code"] == "generation_interrupted"
        assert not any(event.is_done for event in events)
        async with client_of(api) as client:
            stream = await client.chat.completions.create(
                model="fake", messages=QUESTION, stream=True
            )
            with pytest.raises(openai.APIError):
                async for _ in stream:
                    pass


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "plan",
    [FakePlan(first_token_delay=5), FakePlan(token_delay=0.2)],
    ids=["before-first-token", "mid-answer"],
)
async def test_client_that_leaves_stops_the_engine(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], *, plan: FakePlan, stream: bool
) -> None:
    """When the client disconnects, the engine stops within 0.2 s, before or after the first token."""
    async with start_api(plan) as api:

        async def read() -> None:
            body = {"model": "mongars", "messages": QUESTION, "stream": stream}
            url = f"{api.url}/v1/chat/completions"
            async with api.http.post(url, json=body, headers=api.auth) as response:
                await response.read()

        async with impatient(read) as client:
            await eventually(lambda: api.engine.busy == 1)
            await client.leave()
            await eventually(lambda: api.engine.busy == 0, seconds=0.2)


async def test_overload_is_503_with_retry_after_and_nothing_hangs(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    """Of fifty requests at once, each gets 200, or 503 with `Retry-After`, within 20 s."""
    async with start_api(FakePlan(slots=2, token_delay=0.01)) as api:

        async def ask() -> tuple[int, str | None]:
            body = {"model": "mongars", "messages": QUESTION}
            url = f"{api.url}/v1/chat/completions"
            async with api.http.post(url, json=body, headers=api.auth) as response:
                await response.read()
                return response.status, response.headers.get("Retry-After")

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask()) for _ in range(50)]
        results = [task.result() for task in tasks]
        assert {status for status, _ in results} <= {200, 503}
        assert sum(status == 200 for status, _ in results) >= 2
        assert all(wait for status, wait in results if status == 503)
        assert api.engine.busy == 0


async def test_busy_answers_invite_to_come_back(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    """A 503 response to overload has `Retry-After` and does not forbid a retry."""
    async with start_api(FakePlan(slots=1, token_delay=0.1)) as api:

        async def ask() -> tuple[int, str | None, str | None]:
            url = f"{api.url}/v1/chat/completions"
            async with api.http.post(
                url, json={"model": "mongars", "messages": QUESTION}, headers=api.auth
            ) as answer:
                headers = answer.headers
                return answer.status, headers.get("Retry-After"), headers.get("x-should-retry")

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask()) for _ in range(20)]
        refused = [task.result() for task in tasks if task.result()[0] == 503]
        assert refused
        assert all(int(wait or 0) >= 1 and retry is None for _, wait, retry in refused)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_callers_deadline_is_kept(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], *, stream: bool
) -> None:
    """An answer that exceeds `X-Request-Timeout-Ms` gets 504; a negative value gets 400."""
    async with start_api(FakePlan(first_token_delay=5)) as api:
        url, body = (
            f"{api.url}/v1/chat/completions",
            {"model": "mongars", "messages": QUESTION, "stream": stream},
        )
        hurry = {**api.auth, "X-Request-Timeout-Ms": "200"}
        async with asyncio.timeout(2), api.http.post(url, json=body, headers=hurry) as response:
            assert response.status == 504
        wrong = {**api.auth, "X-Request-Timeout-Ms": "-1"}
        async with api.http.post(url, json=body, headers=wrong) as response:
            assert response.status == 400


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/conversation/chat"])
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(FakePlan(first_token_delay=5), id="before-the-first-token"),
        pytest.param(FakePlan(token_delay=0.15), id="after-it"),
    ],
)
async def test_the_read_timeout_of_an_openai_client_bounds_a_whole_answer(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], path: str, plan: FakePlan
) -> None:
    """A whole answer that exceeds the OpenAI client's read timeout, or a shorter `X-Request-Timeout-Ms`, gets 504."""
    async with start_api(plan) as api:
        url, body = (
            f"{api.url}{path}",
            {"model": "mongars", "messages": QUESTION, "message": "Say hello."},
        )
        hurry = {**api.auth, "x-stainless-read-timeout": "0.2"}
        async with asyncio.timeout(3), api.http.post(url, json=body, headers=hurry) as response:
            assert response.status == 504
        both = {**hurry, "x-stainless-read-timeout": "600", "X-Request-Timeout-Ms": "200"}
        async with asyncio.timeout(3), api.http.post(url, json=body, headers=both) as response:
            assert response.status == 504


@pytest.mark.parametrize(
    ("stream", "more"),
    [
        pytest.param(False, {"X-Request-Timeout-Ms": "60000"}, id="the-other-header-wins"),
        pytest.param(False, {"x-stainless-read-timeout": "soon"}, id="nonsense"),
        pytest.param(False, {"x-stainless-read-timeout": "-1"}, id="negative"),
        pytest.param(False, {"x-stainless-read-timeout": "nan"}, id="not-a-number"),
        pytest.param(False, {"x-stainless-read-timeout": "inf"}, id="for-ever"),
        pytest.param(True, {}, id="streamed"),
    ],
)
async def test_the_read_timeout_of_an_openai_client_is_only_a_hint(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
    *,
    stream: bool,
    more: dict[str, str],
) -> None:
    """The read timeout is ignored for streams, if invalid, and if `X-Request-Timeout-Ms` is given."""
    async with start_api(FakePlan(first_token_delay=0.3)) as api:
        body = {"model": "mongars", "messages": QUESTION, "stream": stream}
        given = {**api.auth, "x-stainless-read-timeout": "0.2", **more}
        url = f"{api.url}/v1/chat/completions"
        async with api.http.post(url, json=body, headers=given) as response:
            assert response.status == 200
            assert await response.read()


async def test_the_description_of_the_api_needs_a_key(api: Api) -> None:
    """`/openapi.json` is served with a valid key and answers 401 without one."""
    async with api.http.get(f"{api.url}/openapi.json") as response:
        assert response.status == 401
    async with api.http.get(f"{api.url}/openapi.json", headers=api.auth) as response:
        assert "/v1/chat/completions" in (await response.json())["paths"]


async def test_several_answers_come_with_their_indexes(api: Api) -> None:
    """With `n` = 2, the response, whole or streamed, has two choices, each with its index and text."""
    async with client_of(api) as client:
        whole = await client.chat.completions.create(model="mongars", messages=QUESTION, n=2)
        stream = await client.chat.completions.create(
            model="mongars", messages=QUESTION, n=2, stream=True
        )
        texts, finished = ["", ""], set()
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    finished.add(choice.index)
    assert [choice.message.content for choice in whole.choices] == [ANSWER, ANSWER]
    assert texts == [ANSWER, ANSWER]
    assert finished == {0, 1}
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 10
