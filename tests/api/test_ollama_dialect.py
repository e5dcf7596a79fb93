"""Ollama's API, tested with the official client and with raw HTTP."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import ollama
import orjson
import pytest

from mongars.engines.fake import FakePlan
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, FaultyResponse, Status
from support import eventually, impatient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

    Start = Callable[..., AbstractAsyncContextManager[Api]]

QUESTION = [{"role": "user", "content": "good morning"}]
ANSWER = "[1] you said: good morning"
SLOW = 0.2
"""Unit, in seconds, of the delays in the test that measures durations."""


@asynccontextmanager
async def client_of(api: Api, key: str | None = None) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(
        host=api.url, headers={"Authorization": f"Bearer {key or api.key}"}, trust_env=False
    )
    async with client:
        yield client


async def post(api: Api, path: str, body: dict[str, Any]) -> tuple[int, str, str]:
    """Status, media type and text of a response."""
    async with api.http.post(api.url + path, json=body, headers=api.auth) as response:
        return response.status, response.content_type, await response.text()


async def test_official_client_chats(api: Api) -> None:
    """A chat returns text, finish reason and token counts, and its durations add up to the total."""
    async with client_of(api) as client:
        answer = await client.chat("mongars", QUESTION)
    assert answer.message.content == ANSWER
    assert answer.message.role == "assistant"
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (3, 5)
    parts = (answer.load_duration, answer.prompt_eval_duration, answer.eval_duration)
    assert all(isinstance(part, int) and part >= 0 for part in parts)
    assert answer.total_duration == pytest.approx(sum(parts), abs=10)


async def test_official_client_chats_in_a_stream(api: Api) -> None:
    """The parts of a streamed chat make up the text; only the last is `done` and has the counts."""
    async with client_of(api) as client:
        stream = await client.chat("mongars", QUESTION, stream=True)
        parts = [part async for part in stream]
    assert "".join(part.message.content or "" for part in parts) == ANSWER
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [part.eval_count for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 5)
    assert parts[-1].total_duration > 0


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_official_client_generates(api: Api, *, stream: bool) -> None:
    """A prompt of `/api/generate` is sent as one user message after the `system` message."""
    async with client_of(api) as client:
        answer = await client.generate("mongars", "good morning", system="be brief", stream=stream)
        parts = [part async for part in answer] if stream else [answer]
    assert "".join(part.response for part in parts) == "[2] you said: good morning"
    assert (parts[-1].done, parts[-1].eval_count) == (True, 5)


@pytest.mark.parametrize("name", ["fake", "fake:latest", "mongars", "mongars:latest"])
async def test_names_work_with_and_without_their_tag(api: Api, name: str) -> None:
    """A model name works with the tag `latest` and without a tag."""
    async with client_of(api) as client:
        assert (await client.chat(name, QUESTION)).message.content == ANSWER
        assert (await client.show(name)).capabilities == ["completion"]


async def test_official_client_lists_and_shows_models(start_api: Start) -> None:
    """Models are listed and shown with name, time and context length; unknown values are empty or 0."""
    async with start_api(context_tokens=4096) as api, client_of(api) as client:
        listed = (await client.list()).models
        shown = await client.show("mongars")
        assert not (await client.ps()).models, "no provider has been used yet"
        await client.chat("mongars", QUESTION)
        running = (await client.ps()).models
        async with api.http.get(f"{api.url}/api/version", headers=api.auth) as response:
            assert await response.json() == {"version": "test"}
    assert [model.model for model in listed] == ["fake:latest", "mongars:latest"]
    assert {(model.size, model.digest) for model in listed} == {(0, "")}
    assert all(datetime.now(UTC) - model.modified_at < timedelta(minutes=5) for model in listed)
    info = shown.modelinfo
    assert info[f"{info['general.architecture']}.context_length"] == 4096
    assert shown.details.family == ""
    assert [(model.name, model.context_length) for model in running] == [
        ("fake:latest", 4096),
        ("mongars:latest", 4096),
    ]
    assert all(model.expires_at > datetime.now(UTC) + timedelta(days=9000) for model in running)


async def test_an_unknown_context_length_is_left_out(api: Api) -> None:
    """A context length that is not configured is left out of the model's description."""
    async with client_of(api) as client:
        shown = await client.show("mongars")
        await client.chat("mongars", QUESTION)
        (running, *_) = (await client.ps()).models
    assert not any(name.endswith("context_length") for name in shown.modelinfo)
    assert running.context_length is None


async def test_options_reach_the_engine(api: Api) -> None:
    """`num_predict` and `stop` limit the answer; options about memory are accepted without effect."""
    async with client_of(api) as client:
        cut = await client.chat(
            "mongars", QUESTION, options={"num_predict": 2, "num_ctx": 8192, "num_gpu": 1}
        )
        ended = await client.generate(
            "mongars", "good morning", options={"stop": ["said"], "seed": 0}, keep_alive="5m"
        )
        unlimited = await client.chat("mongars", QUESTION, options={"num_predict": -1})
    assert (cut.message.content, cut.done_reason, cut.eval_count) == ("[1] you", "length", 2)
    assert (ended.response.strip(), ended.done_reason) == ("[1] you", "stop")
    assert unlimited.message.content == ANSWER


async def test_logprobs_come_with_the_tokens(api: Api) -> None:
    """Logprobs have one entry per token, in a whole and in a streamed answer."""
    async with client_of(api) as client:
        whole = await client.chat("mongars", QUESTION, logprobs=True, top_logprobs=0)
        stream = await client.chat("mongars", QUESTION, logprobs=True, stream=True)
        parts = [entry async for part in stream for entry in part.logprobs or ()]
    assert "".join(entry.token for entry in whole.logprobs) == ANSWER
    assert [entry.logprob for entry in whole.logprobs] == [-0.5] * 5
    assert [entry.token for entry in parts] == [entry.token for entry in whole.logprobs]


@pytest.mark.parametrize(
    "form",
    ["json", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}],
    ids=["json", "schema"],
)
async def test_a_format_is_kept(start_api: Start, form: str | dict[str, Any]) -> None:
    """`format`, as `json` or a JSON schema, reaches the model server as a response format."""
    async with FakeReplica() as replica, start_api(endpoints=(replica.url,)) as api:
        async with client_of(api) as client:
            await client.chat("mongars", QUESTION, format=form)
        (received,) = replica.received
    sent = received.body["response_format"]
    if form == "json":
        assert sent == {"type": "json_object"}
    else:
        assert sent["json_schema"]["schema"] == form


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    ("think", "seen"), [(None, "let me see"), (True, "let me see"), (False, "")]
)
async def test_thinking_stands_apart_from_the_text(
    start_api: Start, *, stream: bool, think: bool | None, seen: str
) -> None:
    """Reasoning is returned in `thinking`, apart from the text; `think: false` leaves it out."""
    async with FakeReplica() as replica, start_api(endpoints=(replica.url,)) as api:
        replica.always = FaultyResponse(reasoning="let me see")
        async with client_of(api) as client:
            chat = await client.chat("mongars", QUESTION, think=think, stream=stream)
            parts = [part async for part in chat] if stream else [chat]
            assert "".join(part.message.content or "" for part in parts) == TEXT
            assert "".join(part.message.thinking or "" for part in parts) == seen
            found = await client.generate("mongars", "hello", think=think, stream=stream)
            pieces = [part async for part in found] if stream else [found]
            assert "".join(part.response or "" for part in pieces) == TEXT
            assert "".join(part.thinking or "" for part in pieces) == seen


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_durations_are_measured(start_api: Start, *, stream: bool) -> None:
    """The wait for the first token counts as prompt duration, the time of all tokens as generation duration."""
    plan = FakePlan(first_token_delay=2 * SLOW, token_delay=SLOW / 4)
    async with start_api(plan) as api, client_of(api) as client:
        chat = await client.chat("mongars", QUESTION, stream=stream)
        answer = [part async for part in chat][-1] if stream else chat
    second = 1_000_000_000
    assert 1.9 * SLOW * second < answer.prompt_eval_duration < 2 * second
    assert 0.7 * SLOW * second < answer.eval_duration < 2 * second
    parts = answer.load_duration + answer.prompt_eval_duration + answer.eval_duration
    assert answer.total_duration == pytest.approx(parts, abs=10)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"model": "mongars"}),
        ("/api/chat", {"model": "mongars", "messages": [], "stream": False}),
        ("/api/generate", {"model": "mongars:latest"}),
        ("/api/generate", {"model": "mongars", "prompt": "", "keep_alive": -1}),
    ],
)
async def test_a_request_without_a_prompt_only_loads(
    api: Api, path: str, body: dict[str, Any]
) -> None:
    """A request without messages or prompt is answered with done reason `load`, without generating."""
    status, _, text = await post(api, path, body)
    found = json.loads(text)
    assert (status, found["done"], found["done_reason"]) == (200, True, "load")
    assert "eval_count" not in found


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_stream_is_the_default_and_has_a_line_per_object(api: Api, path: str) -> None:
    """With `stream` null, the response is a stream of one JSON object per line."""
    body = {"model": "mongars", "messages": QUESTION, "prompt": "good morning", "stream": None}
    status, kind, text = await post(api, path, body)
    assert (status, kind) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in text.splitlines()]
    assert text.endswith("\n")
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert {line["model"] for line in lines} == {"fake"}


async def test_a_history_with_calls_is_read(api: Api) -> None:
    """Tool calls and tool results in the messages are sent to the model as text."""
    call = {"function": {"name": "look", "arguments": {"where": "out"}}}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_name": "look"},
    ]
    async with client_of(api) as client:
        answer = await client.chat("mongars", messages)
    assert answer.message.content == "[3] you said: [Result of look] rain"


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/api/chat", "tools", [{"type": "function", "function": {"name": "f"}}]),
        ("/api/chat", "messages", [{"role": "user", "content": "x", "images": ["aGk="]}]),
        ("/api/chat", "format", "yaml"),
        ("/api/chat", "format", {"type": 7}),
        ("/api/chat", "think", {"a": 1}),
        ("/api/chat", "top_logprobs", 3),
        ("/api/generate", "images", ["aGk="]),
        ("/api/generate", "raw", True),
        ("/api/generate", "template", "{{ .Prompt }}"),
        ("/api/generate", "suffix", "}"),
        ("/api/generate", "context", [1, 2]),
        ("/api/generate", "prompt", 7),
        ("/api/generate", "options", {"mirostat": 2}),
        ("/api/generate", "options", {"repeat_last_n": 0}),
        ("/api/generate", "options", {"temperature": 9}),
        ("/api/generate", "options", {"num_predict": -3}),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_demand_that_cannot_be_met_is_refused_by_name(
    api: Api, *, path: str, field: str, value: object, stream: bool
) -> None:
    """An unsupported or invalid parameter gets 400 with its name, also inside `options` or a message."""
    body = {"model": "mongars", "messages": QUESTION, "prompt": "hello", "stream": stream}
    status, kind, text = await post(api, path, {**body, field: value})
    assert (status, kind) == (400, "application/json")
    (error,) = json.loads(text).values()
    assert field in error
    inner = next(iter(value)) if isinstance(value, dict) and field == "options" else field
    assert inner in error


@pytest.mark.parametrize(
    "empty",
    [
        {"tools": [], "format": "", "images": [], "options": {}, "context": []},
        {"suffix": "", "template": "", "raw": False, "system": "", "think": True},
        dict.fromkeys(("tools", "format", "images", "options", "think", "stream", "keep_alive")),
        {"options": {"mirostat": 0, "repeat_last_n": 64, "tfs_z": 1.0, "typical_p": 1.0}},
        {"options": dict.fromkeys(("mirostat", "num_predict", "temperature", "stop"))},
    ],
)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_empty_and_null_parameters_are_accepted(
    api: Api, path: str, empty: dict[str, Any]
) -> None:
    """Parameters that are empty, null or neutral are accepted."""
    body = {"model": "mongars", "messages": QUESTION, "prompt": "good morning", **empty}
    status, _, text = await post(api, path, body)
    assert status == 200, text


async def test_errors_in_ollamas_words(api: Api) -> None:
    """Errors have Ollama's format: the official client raises `ResponseError` with status and text."""
    async with client_of(api) as client:
        with pytest.raises(ollama.ResponseError, match=r"^model 'nope' not found") as unknown:
            await client.chat("nope", QUESTION)
        with pytest.raises(ollama.ResponseError, match="not found"):
            await client.show("nope")
        with pytest.raises(ollama.ResponseError, match="too long") as full:
            async for _ in await client.generate("mongars", "word " * 300, stream=True):
                pass
    async with client_of(api, key="wrong") as client:
        with pytest.raises(ollama.ResponseError, match="key") as refused:
            await client.list()
    assert (unknown.value.status_code, full.value.status_code) == (404, 400)
    assert refused.value.status_code == 401


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps", "/api/version", "/api/show", "/api/chat"])
async def test_every_route_needs_a_key(api: Api, path: str) -> None:
    """Every Ollama route answers a request without a key with 401 in Ollama's error format."""
    method = "POST" if path in {"/api/show", "/api/chat"} else "GET"
    async with api.http.request(method, api.url + path, json={"model": "x"}) as response:
        assert response.status == 401
        assert (await response.json()).keys() == {"error"}


async def test_a_cut_stream_ends_with_an_error_line(start_api: Start) -> None:
    """A stream whose generation breaks off ends with an error line, and no line has `done` true."""
    async with start_api(FakePlan(cut_after_tokens=2)) as api:
        body = {"model": "mongars", "messages": QUESTION}
        status, _, text = await post(api, "/api/chat", body)
        lines = [orjson.loads(line) for line in text.splitlines()]
        assert status == 200
        assert lines[-1].keys() == {"error"}
        assert len(lines) > 1
        assert not any(line.get("done") for line in lines)
        async with client_of(api) as client:
            with pytest.raises(ollama.ResponseError):
                async for _ in await client.chat("mongars", QUESTION, stream=True):
                    pass
            with pytest.raises(ollama.ResponseError) as whole:
                await client.chat("mongars", QUESTION)
    assert whole.value.status_code == 500


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_leaves_stops_the_engine(start_api: Start, *, stream: bool) -> None:
    """When the client disconnects, the engine stops generating within 0.2 s, streamed or not."""
    async with start_api(FakePlan(token_delay=0.2)) as api:

        async def read() -> None:
            body = {"model": "mongars", "messages": QUESTION, "stream": stream}
            await post(api, "/api/chat", body)

        async with impatient(read) as client:
            await eventually(lambda: api.engine.busy == 1)
            await client.leave()
            await eventually(lambda: api.engine.busy == 0, seconds=0.2)


async def test_a_fallback_is_named_in_the_headers(start_api: Start) -> None:
    """When Ray is overloaded, the local engine answers and the response header says so."""
    busy = Status(code=503, error="overloaded", headers={"Retry-After": "3"})
    async with FakeReplica() as replica, start_api(endpoints=(replica.url,)) as api:
        replica.always = busy
        body = {"model": "mongars", "messages": QUESTION, "stream": False}
        url = f"{api.url}/api/chat"
        async with api.http.post(url, json=body, headers=api.auth) as response:
            assert response.status == 200
            assert response.headers["x-llm-fallback"] == "true"
            assert (await response.json())["message"]["content"] == ANSWER


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": None}, {"verbose": True}])
async def test_show_needs_a_name(api: Api, body: dict[str, Any]) -> None:
    """`/api/show` without a model's name is an invalid request that names `model`, not an unknown model."""
    status, _, text = await post(api, "/api/show", body)
    assert (status, json.loads(text)) == (400, {"error": "model: must name a model."})
    assert (await post(api, "/api/show", {"name": "mongars"}))[0] == 200
