"""A replica's other functions: a coding model, several choices, embeddings and response formats."""

from __future__ import annotations

import base64
import os
import signal
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

from engines.embedding_bench import minilm
from mongars.core.clock import SystemClock
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.fake_embedder import FakeEmbedder
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from mongars.serving.config import ReplicaConfig
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.loopback_server import serving
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLOCK = SystemClock()


class Coder(FakeEngine):
    """A second fake engine, whose model is named `coder`."""

    @property
    def origin(self) -> Any:
        return super().origin.__class__(model="coder", engine="fake")


@dataclass(frozen=True)
class ServedReplica:
    url: str
    http: aiohttp.ClientSession

    async def post(self, path: str, body: object) -> tuple[int, bytes]:
        async with self.http.post(self.url + path, data=orjson.dumps(body)) as response:
            return response.status, await response.read()

    async def json(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        status, data = await self.post(path, body)
        return status, orjson.loads(data)


@asynccontextmanager
async def replica(*, embedding: bool = True, **limits: object) -> AsyncIterator[ServedReplica]:
    replica = Replica(
        {
            "general": FakeEngine(FakePlan(), clock=CLOCK),
            "coding": Coder(FakePlan(), clock=CLOCK),
        },
        ReplicaConfig(**limits),
        clock=CLOCK,
        replica_id="r1",
        embedder=FakeEmbedder(context_tokens=16) if embedding else None,
    )
    await replica.start()
    async with serving(build_ingress(replica)) as url, aiohttp.ClientSession() as http:
        yield ServedReplica(url, http)


@pytest.mark.parametrize(
    ("task_type", "model"),
    [
        ("general", "fake"),
        ("summary", "fake"),
        ("code", "coder"),
        ("Coding", "coder"),
        (" DEVELOPER ", "coder"),
    ],
)
async def test_task_type_chooses_the_model_and_the_answer_names_it(
    task_type: str, model: str
) -> None:
    """Requests with a task type for code go to the coding model, whatever the case; all others to the general model."""
    async with replica() as it:
        status, body = await it.json("/generate", {"prompt": "hello", "task_type": task_type})
    assert status == 200
    assert body["model"] == body["usage"]["model"] == model


async def test_several_answers_are_joined_listed_and_counted() -> None:
    """With `n: 2` the text has both choices, separated by a blank line; each is also listed, with its tokens."""
    async with replica() as it:
        status, body = await it.json("/generate", {"prompt": "good day", "n": 2})
    assert status == 200
    one = "[1] you said: good day"
    assert body["content"] == f"{one}\n\n{one}"
    assert [choice["content"] for choice in body["choices"]] == [one, one]
    assert body["usage"]["generations"] == 2
    assert body["usage"]["completion_tokens_per_generation"] == [5, 5]
    assert body["usage"]["completion_tokens"] == 10


async def test_several_answers_are_streamed_side_by_side() -> None:
    """In a stream of several choices each chunk has the choice's index, and `[DONE]` occurs once."""
    async with replica() as it:
        _, data = await it.post("/generate", {"prompt": "good day", "n": 3, "stream": True})
    events = EventSplitter().feed(data)
    accumulated = AnswerAccumulator(3)
    for event in events[1:-1]:
        accumulated.add(read_chunk(event))
    assert accumulated.finished
    assert [event.is_done for event in events].count(True) == 1


@pytest.mark.parametrize("n", [0, 129, "x"])
async def test_impossible_numbers_of_answers_are_refused(n: object) -> None:
    """An `n` out of range is refused with 400 and its name."""
    async with replica() as it:
        status, body = await it.json("/generate", {"prompt": "x", "n": n})
    assert (status, body["error"]) == (400, "invalid_request")
    assert body["detail"].startswith("n:")


async def test_vectors_come_in_order_in_both_encodings() -> None:
    """Embeddings are in the order of the texts, and base64 has the same numbers as the list."""
    texts = ["good morning", "bad weather", "good morning"]
    async with replica() as it:
        _, plain = await it.json("/v1/embeddings", {"input": texts, "model": "fake-embedding"})
        _, packed = await it.json(
            "/v1/embeddings",
            {"input": texts, "model": "fake-embedding", "encoding_format": "base64"},
        )
    vectors = [entry["embedding"] for entry in plain["data"]]
    assert [entry["index"] for entry in plain["data"]] == [0, 1, 2]
    assert vectors[0] == vectors[2] != vectors[1]
    assert plain["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    for entry, vector in zip(packed["data"], vectors, strict=True):
        raw = base64.b64decode(entry["embedding"])
        assert struct.unpack(f"<{len(vector)}f", raw) == pytest.approx(vector)


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        pytest.param({}, 400, "invalid_request", "input", id="nothing"),
        pytest.param({"input": []}, 400, "invalid_request", "no text", id="empty-list"),
        pytest.param({"input": ["a", " "]}, 400, "invalid_request", "empty", id="blank"),
        pytest.param({"input": [1, 2]}, 400, "invalid_request", "send the text", id="token-ids"),
        pytest.param({"input": [[1], [2]]}, 400, "invalid_request", "send the text", id="tokens"),
        pytest.param({"input": "a", "truncate": True}, 400, "invalid_request", "cut", id="cut"),
        pytest.param({"input": ["a"] * 2049}, 400, "invalid_request", "2048", id="many"),
        pytest.param({"input": "a", "model": "x"}, 404, "model_not_found", "fake", id="model"),
        pytest.param(
            {"input": "a", "dimensions": 3}, 400, "invalid_request", "dimensions", id="dimensions"
        ),
        pytest.param(
            {"input": "a " * 17}, 400, "context_length_exceeded", "16", id="beyond-the-window"
        ),
    ],
)
async def test_bad_embedding_requests_say_what_is_wrong(
    body: dict[str, Any], status: int, code: str, says: str
) -> None:
    """Each kind of bad embedding request gets its status and OpenAI's error body with the reason."""
    async with replica() as it:
        found, answer = await it.json("/v1/embeddings", {"model": "fake-embedding", **body})
    assert (found, answer["error"]["code"]) == (status, code)
    assert says in answer["error"]["message"]


async def test_as_many_texts_as_openai_reads_are_read_at_once() -> None:
    """2,048 texts in one request get 2,048 vectors in order; null fields count as left out."""
    texts = [f"text {index}" for index in range(2048)]
    body = {"input": texts, "model": "fake-embedding", "dimensions": None, "encoding_format": None}
    async with replica() as it:
        status, answer = await it.json("/v1/embeddings", body)
    assert status == 200
    assert [entry["index"] for entry in answer["data"]] == list(range(2048))


async def test_without_an_embedding_model_the_route_is_404() -> None:
    """Without an embedding model, `/v1/embeddings` is 404 and names the setting."""
    async with replica(embedding=False) as it:
        status, answer = await it.json("/v1/embeddings", {"input": "a", "model": "fake-embedding"})
    assert status == 404
    assert "RAY_EMBEDDING_MODEL" in answer["error"]["message"]


async def test_models_are_listed_and_every_route_requires_the_token() -> None:
    """`/v1/models` lists each model once; it and `/v1/embeddings` are 401 without the token."""
    async with replica() as it, it.http.get(it.url + "/v1/models") as response:
        names = [entry["id"] for entry in (await response.json())["data"]]
    assert names == ["fake", "coder", "fake-embedding"]
    async with replica(token_sha256="0" * 64) as it:
        async with it.http.get(it.url + "/v1/models") as response:
            assert response.status == 401
        status, _ = await it.json("/v1/embeddings", {"input": "a"})
        assert status == 401


def patterned(pattern: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern}
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def nested_lists(levels: int, items: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema, "minItems": items, "maxItems": items}
    return {"type": "json_schema", "json_schema": {"schema": schema}}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        pytest.param({"type": "yaml"}, "type must be one of", id="kind"),
        pytest.param({"type": "json_schema"}, "json_schema.schema", id="no-schema"),
        pytest.param(
            {"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}},
            "is no JSON Schema: type",
            id="misspelt-type",
        ),
        pytest.param(
            {"type": "json_schema", "json_schema": {"schema": {"properties": 5}}},
            "properties",
            id="wrong-shape",
        ),
        pytest.param(
            {"type": "json_schema", "json_schema": {"schema": {"anyOf": [{"const": 0}] * 10_000}}},
            "more than 500 parts",
            id="huge",
        ),
        pytest.param(
            {"type": "json_schema", "json_schema": {"schema": {"enum": list(range(50_000))}}},
            "more than 500 parts",
            id="huge-enum",
        ),
        pytest.param(
            {"type": "json_schema", "json_schema": {"schema": {"maxItems": 1e9}}},
            "repetitions",
            id="fractional-count",
        ),
        pytest.param(
            {"type": "json_object", "schema": {"type": "objekt"}},
            "is no JSON Schema: type",
            id="beside-json-object",
        ),
        pytest.param(nested_lists(3, 1000), "repetitions", id="nested-lists"),
        pytest.param(patterned("^(([a-z]{0,30}){0,30})$"), "nested repetitions", id="ambiguous"),
        pytest.param(patterned("^((([a-z]{1,}){1,}){1,})$"), "nested repetitions", id="open"),
        pytest.param(patterned("[a-z]?" * 300), "256 characters", id="long-pattern"),
        pytest.param(patterned("(" * 900 + "a" + ")" * 900), "256 characters", id="deep-pattern"),
    ],
)
async def test_response_formats_no_engine_could_keep_are_refused(
    wanted: dict[str, Any], says: str
) -> None:
    """A response format that no engine can enforce is refused with 400 and the reason."""
    async with replica() as it:
        status, body = await it.json("/generate", {"prompt": "x", "response_format": wanted})
    assert status == 400
    assert says in body["detail"]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        pytest.param(r"^[a-z]+(-[a-z]+)*$", "a-b", id="slug"),
        pytest.param(r"^(\d{3}-)?\d{4}$", "555-1234", id="phone"),
        pytest.param(r"^\d{4}-\d{2}-\d{2}$", "2026-01-02", id="date"),
        pytest.param(r"^[\]a]{0,500}$", "]a", id="class"),
    ],
)
async def test_ordinary_patterns_pass(pattern: str, text: str) -> None:
    """Ordinary patterns, such as of dates and phone numbers, are within the limits."""
    async with replica() as it:
        status, body = await it.json(
            "/generate", {"prompt": f'"{text}"', "response_format": patterned(pattern)}
        )
    assert status == 200, body
    assert body["content"] == f'"{text}"'


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        pytest.param({"enum": [f"v{index}" for index in range(5000)]}, '"v4999"', id="enum"),
        pytest.param({"type": "array", "maxItems": 2000}, "[1, 2]", id="items"),
        pytest.param({"type": "string", "maxLength": 2000}, '"a"', id="length"),
        pytest.param(
            {"type": "array", "items": {"type": "string", "maxLength": 500}, "maxItems": 100},
            '["a"]',
            id="texts-in-a-list",
        ),
        pytest.param({"enum": ["x" * 4096]}, f'"{"x" * 4096}"', id="text"),
        pytest.param({"anyOf": [{"const": index} for index in range(490)]}, "7", id="parts"),
    ],
)
async def test_the_documented_limits_are_allowed(schema: dict[str, Any], text: str) -> None:
    """The largest schemas that the guide allows are answered."""
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    async with replica() as it:
        status, body = await it.json("/generate", {"prompt": text, "response_format": form})
    assert (status, body.get("content")) == (200, text), body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_more_answers_than_slots_are_drawn_in_turn(stream: bool) -> None:
    """With `n: 128` on a replica with few slots and a short queue, all choices are generated."""
    async with replica(max_waiting=1) as it:
        _, data = await it.post("/generate", {"prompt": "good day", "n": 128, "stream": stream})
    if not stream:
        texts = [choice["content"] for choice in orjson.loads(data)["choices"]]
        assert texts == ["[1] you said: good day"] * 128
        return
    accumulated = AnswerAccumulator(128)
    for event in EventSplitter().feed(data)[1:-1]:
        accumulated.add(read_chunk(event))
    assert accumulated.finished


async def test_chat_model_makes_no_vectors() -> None:
    """The chat model is refused for embeddings with 404, and the error names the embedding model."""
    async with replica() as it:
        status, answer = await it.json("/v1/embeddings", {"input": "a", "model": "fake"})
    assert status == 404
    assert "fake-embedding" in answer["error"]["message"]


async def test_whole_answers_hold_their_log_probabilities() -> None:
    """With `logprobs`, an answer in one piece has the log-probabilities of its tokens; without, it has none."""
    async with replica() as it:
        _, body = await it.json("/generate", {"prompt": "x", "logprobs": True})
        _, without = await it.json("/generate", {"prompt": "x"})
    assert all(value <= 0 for value in body["choices"][0]["logprobs"])
    assert "logprobs" not in without["choices"][0]


@pytest.mark.model
async def test_readiness_counts_the_restarts_of_the_embedder() -> None:
    """After the embedder's child process was killed and restarted, `engine_restarts` in `/readyz` is 1."""
    async with minilm() as embedder:
        engine = FakeEngine(FakePlan(), clock=CLOCK)
        replica = Replica(
            {"general": engine}, ReplicaConfig(), clock=CLOCK, replica_id="r1", embedder=embedder
        )
        await engine.start()
        pid = embedder.status.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(
            lambda: embedder.status.state == "ready" and embedder.status.pid != pid, seconds=30
        )
        async with (
            serving(build_ingress(replica)) as url,
            aiohttp.ClientSession(url) as http,
            http.get("/readyz") as response,
        ):
            body = await response.json()
    assert (body["status"], body["engine_restarts"]) == ("ready", 1)
