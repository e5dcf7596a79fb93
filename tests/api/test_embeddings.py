"""Embeddings through the API with the official clients, over fake replicas."""

from __future__ import annotations

import base64
import dataclasses
import math
import struct
from collections import deque
from contextlib import asynccontextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import ollama
import openai
import orjson
import pytest
from openai_client import client_of

from mongars.engines.fake_embedder import FakeEmbedder
from mongars.inference.events import (
    AttemptStarted,
    EmbeddingsEnded,
    EndpointChanged,
    FellBack,
    Unanswered,
)
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import FaultyResponse, Reset, Silence, Status
from mongars.testing.recording import RecordingObserver
from support import eventually, impatient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

    from mongars.testing.faults import Fault

    Start = Callable[..., AbstractAsyncContextManager[Api]]

MODEL = "fake-embedding"
TEXTS = ["a cup of tea", "a pot of coffee", "a tax on income"]
CHAT = {"model": "mongars", "messages": [{"role": "user", "content": "hi"}]}
BUSY = Status(code=503, error="overloaded", headers={"retry-after": "30"})


@dataclasses.dataclass
class World:
    api: Api
    replicas: list[FakeReplica]
    observer: RecordingObserver
    client: openai.AsyncOpenAI

    async def post(
        self, body: dict[str, Any], path: str = "/v1/embeddings", **headers: str
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        sent = {**self.api.auth, **headers}
        data = BytesIO(orjson.dumps(body))
        async with self.api.http.post(self.api.url + path, data=data, headers=sent) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            return response.status, found, await response.json()

    async def embedded_after(self, data: object, texts: list[str]) -> list[list[float]]:
        """The vectors of `texts` when the first endpoint sends `data`, which must be refused, and another one embeds."""
        body = {"data": data, "model": MODEL, "usage": {"prompt_tokens": 1}}
        once = deque([Status(code=200, body=body)])
        for replica in self.replicas:
            replica.faults = once
        status, headers, found = await self.post({"input": texts})
        assert (status, headers["x-llm-attempts"]) == (200, "2")
        return [each["embedding"] for each in found["data"]]


@pytest.fixture
def start_world(start_api: Start) -> Callable[..., AbstractAsyncContextManager[World]]:
    """Starts an API over `replicas` fake replicas; `local`: the model name of its local embedder, if any."""

    @asynccontextmanager
    async def start(
        replicas: int = 1, *, local: str | None = None, **settings: Any
    ) -> AsyncIterator[World]:
        fakes = [FakeReplica(name=f"r{number}") for number in range(replicas)]
        for fake in fakes:
            await fake.start()
        observer = RecordingObserver()
        embedder = None if local is None else FakeEmbedder(model=local)
        try:
            async with (
                start_api(
                    endpoints=tuple(fake.url for fake in fakes),
                    embedder=embedder,
                    observer=observer,
                    **{"embedding_model": MODEL, **settings},
                ) as api,
                client_of(api) as client,
            ):
                yield World(api, fakes, observer, client)
        finally:
            for fake in fakes:
                await fake.stop()

    return start


StartWorld = "Callable[..., AbstractAsyncContextManager[World]]"


async def expected(texts: Sequence[str]) -> list[tuple[float, ...]]:
    embedder = FakeEmbedder()
    await embedder.start()
    return [pytest.approx(vector, abs=1e-6) for vector in (await embedder.embed(texts)).vectors]


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
async def test_the_official_client_embeds_texts(start_world: StartWorld, encoding: str) -> None:
    """The official client gets one vector per text in order, the token counts and the model, in either encoding."""
    wanted = {} if encoding is None else {"encoding_format": encoding}
    async with start_world() as world:
        found = await world.client.embeddings.create(model="mongars", input=TEXTS, **wanted)
    vectors = [entry.embedding for entry in found.data]
    if encoding == "base64":
        raw = [base64.b64decode(vector) for vector in vectors]
        vectors = [struct.unpack(f"<{len(vector) // 4}f", vector) for vector in raw]
    assert [tuple(vector) for vector in vectors] == await expected(TEXTS)
    assert [entry.index for entry in found.data] == [0, 1, 2]
    assert found.model == MODEL
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (12, 12)


@pytest.mark.parametrize("named", ["", "mongars", MODEL])
async def test_the_headers_say_where_the_vectors_come_from(
    start_world: StartWorld, named: str
) -> None:
    """Response headers name provider, endpoint and attempts; the replica gets the real model name and the salt."""
    async with start_world() as world:
        body = {"model": named, "input": "tea"}
        status, headers, found = await world.post(body, **{"x-request-id": "req-7"})
        (received,) = world.replicas[0].received
    assert (status, found["model"]) == (200, MODEL)
    assert headers["x-llm-provider"] == "ray_serve"
    assert headers["x-llm-endpoint"].endswith("/v1/embeddings")
    assert (headers["x-llm-attempts"], headers["x-llm-fallback"]) == ("1", "false")
    assert headers["x-request-id"] == received.headers["x-request-id"] == "req-7"
    assert float(headers["x-llm-overhead-ms"]) >= 0
    assert received.body["model"] == MODEL
    assert received.body["cache_salt"] not in {"", "alice"}


async def test_as_many_texts_as_openai_allows(start_world: StartWorld) -> None:
    """2,048 texts get one vector each in order; the replica receives batches of at most 128, and usage is summed."""
    texts = [f"text {number} " + "word " * 78 for number in range(2048)]
    async with start_world() as world:
        found = await world.client.embeddings.create(model="mongars", input=texts)
        sent = [len(received.body["input"]) for received in world.replicas[0].received]
    assert [entry.index for entry in found.data] == list(range(2048))
    assert [tuple(entry.embedding) for entry in found.data] == await expected(texts)
    assert found.usage.prompt_tokens == 2048 * 80
    assert sum(sent) == 2048
    assert max(sent) <= 128


async def test_pieces_are_no_attempts(start_world: StartWorld) -> None:
    """A batch that is sent in 8 pieces without a failure needed one attempt, in the header and in the metrics."""
    async with start_world() as world:
        status, headers, _ = await world.post({"input": ["tea"] * 1024})
        assert (status, headers["x-llm-attempts"]) == (200, "1")
        assert {event.attempt for event in world.observer.of(AttemptStarted)} == {1}
        assert len(world.observer.of(AttemptStarted)) == 8
        (ended,) = world.observer.of(EmbeddingsEnded)
        assert ended.attempts == 1


async def test_a_replica_that_reads_less_gets_smaller_pieces(start_world: StartWorld) -> None:
    """After a 413 from the replica the batch is halved; one text that alone is too large gets 413."""
    async with start_world() as world:
        world.replicas[0].embeddings.max_body_bytes = 1000
        texts = [f"{number} " + "word " * 50 for number in range(8)]
        found = await world.client.embeddings.create(model="mongars", input=texts)
        with pytest.raises(openai.APIStatusError) as caught:
            await world.client.embeddings.create(model="mongars", input="word " * 400)
    assert [tuple(entry.embedding) for entry in found.data] == await expected(texts)
    assert caught.value.status_code == 413


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        pytest.param({"input": []}, 400, "input", "no text", id="empty-list"),
        pytest.param({"input": ""}, 400, "input", "empty", id="empty-text"),
        pytest.param({"input": ["a", " "]}, 400, "input", "empty", id="blank-text"),
        pytest.param({"input": [1, 2]}, 400, "input", "token numbers", id="tokens"),
        pytest.param({"input": [[1], [2]]}, 400, "input", "token numbers", id="token-arrays"),
        pytest.param({"input": ["a"] * 2049}, 400, "input", "2048", id="too-many"),
        pytest.param({}, 400, "input", "input", id="no-input"),
        pytest.param({"input": "a", "dimensions": 3}, 400, "dimensions", "64", id="dimensions"),
        pytest.param({"input": "a", "model": "other"}, 404, "model", MODEL, id="unknown-model"),
        pytest.param({"input": "a", "model": "fake"}, 404, "model", MODEL, id="chat-model"),
        pytest.param(
            {"input": ["a", "word " * 600]}, 400, "input", "600 tokens", id="beyond-the-context"
        ),
    ],
)
async def test_wrong_requests_are_named(
    start_world: StartWorld, body: dict[str, Any], status: int, param: str, says: str
) -> None:
    """An invalid embedding request gets a status, field and reason, without a retry or fallback."""
    async with start_world(2, local=MODEL) as world:
        found, _, answer = await world.post({"model": "mongars", **body})
        assert sum(len(replica.received) for replica in world.replicas) <= 1
        assert not world.observer.of(FellBack)
    error = answer["error"]
    assert (found, error["param"]) == (status, param)
    assert says in error["message"]


async def test_dimensions_may_be_the_models_own(start_world: StartWorld) -> None:
    """`dimensions` equal to the model's own number of dimensions is accepted."""
    async with start_world() as world:
        found = await world.client.embeddings.create(model=MODEL, input="tea", dimensions=64)
    assert len(found.data[0].embedding) == 64


async def test_a_body_that_is_too_large_names_the_setting(start_world: StartWorld) -> None:
    """A body above the API's limit gets 413 with the limit in bytes and the variable that raises the limit."""
    async with start_world() as world:
        status, _, answer = await world.post({"input": ["word " * 200] * 1100})
    assert status == 413
    assert "1000000 bytes" in answer["error"]["message"]
    assert "MONGARS_MAX_BODY_BYTES" in answer["error"]["message"]


async def test_a_busy_endpoint_is_passed_over(start_world: StartWorld) -> None:
    """After a 503 from one endpoint the other one embeds, and the response counts both attempts."""
    async with start_world(2) as world:
        for replica in world.replicas:
            replica.faults.append(BUSY)
        world.replicas[1].faults.clear()
        headers = [(await world.post({"input": "tea"}))[1] for _ in range(4)]
        assert len(world.replicas[0].received) <= 1
    assert {header["x-llm-provider"] for header in headers} == {"ray_serve"}
    assert sum(int(header["x-llm-attempts"]) for header in headers) in {4, 5}


async def test_an_endpoint_that_fails_is_taken_out_of_use(start_world: StartWorld) -> None:
    """After five failed embedding attempts the endpoint is taken out of use, and the local embedder answers."""
    async with start_world(local=MODEL, client={"max_scale_cycles": 1}) as world:
        world.replicas[0].always = Reset()
        headers = [(await world.post({"input": "tea"}))[1] for _ in range(7)]
        assert len(world.observer.of(AttemptStarted)) == 5
        assert [event.state for event in world.observer.of(EndpointChanged)] == ["down"]
    assert {header["x-llm-fallback"] for header in headers} == {"true"}
    assert headers[-1]["x-llm-attempts"] == "1"


async def test_without_ray_the_local_embedder_answers(start_world: StartWorld) -> None:
    """With both endpoints down, the local embedder of the same model answers as a fallback, recorded and counted."""
    async with start_world(2, local=MODEL) as world:
        for replica in world.replicas:
            await replica.stop()
        status, headers, found = await world.post({"input": TEXTS})
        vectors = [tuple(entry["embedding"]) for entry in found["data"]]
        (fallback,) = world.observer.of(FellBack)
        (ended,) = world.observer.of(EmbeddingsEnded)
        async with world.api.http.get(f"{world.api.url}/metrics", headers=world.api.auth) as page:
            metrics = await page.text()
    assert (status, found["model"], vectors) == (200, MODEL, await expected(TEXTS))
    assert (headers["x-llm-provider"], headers["x-llm-endpoint"]) == ("embedded", "in-process")
    assert headers["x-llm-fallback"] == "true"
    assert (fallback.reason, fallback.task_type) == ("ray_exception", "embedding")
    assert (ended.outcome, ended.texts, ended.prompt_tokens) == ("fallback", 3, 12)
    assert 'llm_requests_total{outcome="fallback"' in metrics
    assert "tea" not in repr(world.observer.events)


async def test_a_batch_whose_second_piece_fails_is_completed_here(start_world: StartWorld) -> None:
    """If the second batch of a request fails, the local embedder of the same model completes the request in order."""
    texts = [f"number {number}" for number in range(300)]
    async with start_world(local=MODEL, client={"max_scale_cycles": 1}) as world:
        world.replicas[0].faults.append(FaultyResponse())
        world.replicas[0].always = Reset()
        _, headers, found = await world.post({"input": texts})
        assert len(world.observer.of(AttemptStarted)) == 2
    assert [tuple(entry["embedding"]) for entry in found["data"]] == await expected(texts)
    assert (headers["x-llm-fallback"], found["usage"]["prompt_tokens"]) == ("true", 600)


async def test_nothing_answers(start_world: StartWorld) -> None:
    """Without a working endpoint and without a local embedder, the response is 502 that names the provider."""
    async with start_world() as world:
        await world.replicas[0].stop()
        status, headers, answer = await world.post({"input": "tea"})
        assert len(world.observer.of(Unanswered)) == 1
    assert status == 502
    assert "ray_serve" in answer["error"]["message"]
    assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize("served", [None, "another-model"])
async def test_an_application_without_the_model_is_no_failed_endpoint(
    start_world: StartWorld, served: str | None
) -> None:
    """An endpoint that lacks the embedding model stays in use for chat; the local embedder answers meanwhile."""
    async with start_world(local=MODEL) as world:
        world.replicas[0].embeddings.model = served
        for _ in range(7):
            status, headers, found = await world.post({"input": "tea"})
            assert (status, found["model"], headers["x-llm-fallback"]) == (200, MODEL, "true")
        assert not world.observer.of(EndpointChanged)
        status, headers, _ = await world.post(CHAT, "/v1/chat/completions")
    assert (status, headers["x-llm-provider"]) == (200, "ray_serve")


@pytest.mark.parametrize("local", [None, "another-model"])
@pytest.mark.parametrize("served", [None, "another-model"])
async def test_vectors_of_another_model_never_answer(
    start_world: StartWorld, served: str | None, local: str | None
) -> None:
    """If neither the endpoint nor the local embedder has the model, the response is 404 that names the setting."""
    async with start_world(local=local) as world:
        world.replicas[0].embeddings.model = served
        status, _, answer = await world.post({"input": "tea"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert "RAY_EMBEDDING_MODEL" in answer["error"]["message"]
    assert served is None or served in answer["error"]["message"]


async def test_ray_down_and_another_model_here(start_world: StartWorld) -> None:
    """With the endpoint down and a local embedder of another model, the response is 502 that names the local model."""
    async with start_world(local="another-model") as world:
        await world.replicas[0].stop()
        status, _, answer = await world.post({"input": "tea"})
    assert status == 502
    assert "another-model" in answer["error"]["message"]


async def test_a_server_that_ignores_the_name_is_found_out(start_world: StartWorld) -> None:
    """Vectors that a replica returns under another model name are discarded, and the local embedder answers."""
    entry = {"object": "embedding", "index": 0, "embedding": [1.0, 0.0]}
    body = {"data": [entry], "model": "text-embedding-3", "usage": {"prompt_tokens": 1}}
    async with start_world(local=MODEL) as world:
        world.replicas[0].always = Status(code=200, body=body)
        _, headers, found = await world.post({"input": "tea"})
    assert (found["model"], headers["x-llm-provider"]) == (MODEL, "embedded")


@pytest.mark.parametrize("code", [404, 405])
async def test_a_proxy_without_the_route_stays_in_use_for_chat(
    start_world: StartWorld, code: int
) -> None:
    """An endpoint that answers 404 or 405 to an embedding request stays in use for chat."""
    async with start_world(local=MODEL) as world:
        world.replicas[0].faults.append(Status(code=code))
        _, headers, _ = await world.post({"input": "tea"})
        assert headers["x-llm-fallback"] == "true"
        assert not world.observer.of(EndpointChanged)


@pytest.mark.parametrize("code", [404, 405])
async def test_an_endpoint_without_the_route_does_not_hide_the_others(
    start_world: StartWorld, code: int
) -> None:
    """With an endpoint that lacks the route for embeddings, all requests are answered by the other endpoint."""
    async with start_world(2) as world:
        world.replicas[0].always = Status(code=code)
        answered = [await world.post({"input": "tea"}) for _ in range(60)]
        assert {status for status, _, _ in answered} == {200}
        assert {headers["x-llm-provider"] for _, headers, _ in answered} == {"ray_serve"}
        assert not world.observer.of(EndpointChanged)


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": "!!"}],
        [{"index": 0, "embedding": "AAA="}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": ["x"]}],
        [{"index": 0}],
        None,
    ],
    ids=["too few", "no base64", "half a number", "no numbers", "text", "no vector", "no list"],
)
async def test_a_malformed_response_is_not_passed_on(start_world: StartWorld, data: object) -> None:
    """A response without one valid vector per text counts as a failed attempt, and another endpoint embeds."""
    async with start_world(2) as world:
        found = await world.embedded_after(data, ["tea"])
    assert len(found) == 1


def entry(index: object, *numbers: float) -> dict[str, Any]:
    packed = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers))
    return {"index": index, "embedding": packed.decode()}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param([entry(0, 1.0), entry(0, 2.0)], id="repeated index"),
        pytest.param([entry(0, 1.0), entry(2, 2.0)], id="index too large"),
        pytest.param([entry(-1, 1.0), entry(0, 2.0)], id="negative index"),
        pytest.param([entry(0, 1.0), entry([1], 2.0)], id="index is a list"),
        pytest.param([entry(0, 1.0), entry(1, 2.0), entry(1, 3.0)], id="too many"),
        pytest.param([entry(0, 1.0), entry(1, math.nan)], id="nan"),
        pytest.param([entry(0, 1.0, 0.0), entry(1, math.inf, -math.inf)], id="infinite"),
        pytest.param([entry(0), entry(1)], id="no numbers"),
        pytest.param([entry(0, 1.0), entry(1, 1.0, 2.0)], id="different lengths"),
    ],
)
async def test_vectors_that_cannot_be_right_are_not_passed_on(
    start_world: StartWorld, data: object
) -> None:
    """A vector of an unknown text, with an infinite number or of another length makes another endpoint embed."""
    async with start_world(2) as world:
        found = await world.embedded_after(data, TEXTS[:2])
    assert [tuple(vector) for vector in found] == await expected(TEXTS[:2])


async def test_the_deadline_of_the_client_is_kept(start_world: StartWorld) -> None:
    """The replica gets the client's `X-Request-Timeout-Ms` reduced by the time spent; on expiry the client gets 504."""
    async with start_world() as world:
        world.replicas[0].always = Silence()
        status, _, answer = await world.post({"input": "tea"}, **{"X-Request-Timeout-Ms": "300"})
        (received,) = world.replicas[0].received
    assert status == 504
    assert "deadline" in answer["error"]["code"] or "deadline" in answer["error"]["message"]
    assert int(received.headers["x-request-timeout-ms"]) < 300


async def test_a_client_that_leaves_stops_the_work(start_world: StartWorld) -> None:
    """When the client disconnects, the connection to the replica is closed and the request recorded as cancelled."""
    async with start_world() as world:
        replica = world.replicas[0]
        replica.always = FaultyResponse(first_delay=30)

        async def embed() -> None:
            await world.post({"input": "tea"})

        async with impatient(embed) as client:
            await eventually(lambda: bool(replica.received))
            await client.leave()
            await eventually(replica.received[0].peer_left.is_set)
        await eventually(lambda: bool(world.observer.of(EmbeddingsEnded)))
        assert world.observer.of(EmbeddingsEnded)[0].outcome == "cancelled"


async def test_slow_embeddings_do_not_change_where_chat_goes(start_world: StartWorld) -> None:
    """The duration of an embedding request does not count as the endpoint's latency for chat."""
    async with start_world() as world:
        world.replicas[0].always = FaultyResponse(first_delay=0.3)
        await world.post({"input": "tea"})
        async with world.api.http.get(
            f"{world.api.url}/internal/endpoints",
            headers={"Authorization": f"Bearer {world.api.admin_key}"},
        ) as response:
            (ray, *_) = (await response.json())["providers"]
    assert ray["state"] == "up"
    assert ray["endpoints"][0]["first_token_seconds"] is None


async def chat(world: World) -> str:
    """The provider that answers a chat of the account `bob`."""
    bob = {"Authorization": f"Bearer {world.api.other_key}"}
    status, headers, _ = await world.post(CHAT, "/v1/chat/completions", **bob)
    assert status == 200
    return headers["x-llm-provider"]


@pytest.mark.parametrize(
    "late",
    [Silence(), Status(code=504, error="deadline_exceeded", detail="too late")],
    ids=["no response", "504"],
)
async def test_late_embeddings_do_not_take_chats_off_an_endpoint(
    start_world: StartWorld, late: Fault
) -> None:
    """After seven embedding requests that are late at an endpoint, it is up, is probed, and answers chats."""
    async with start_world(local=MODEL, client={"timeout": 0.1, "max_scale_cycles": 1}) as world:
        replica = world.replicas[0]
        replica.always = late
        for _ in range(7):
            _, headers, _ = await world.post({"input": "tea"})
            assert headers["x-llm-provider"] == "embedded"
        replica.always = FaultyResponse()
        assert await chat(world) == "ray_serve"
        assert not world.observer.of(EndpointChanged)
        await eventually(lambda: replica.probes > 0, seconds=10)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/embeddings", {"input": "tea"}),
        ("/v1/chat/completions", CHAT),
    ],
    ids=["embeddings", "chat"],
)
async def test_short_deadlines_of_clients_are_no_failures_of_an_endpoint(
    start_world: StartWorld, route: str, body: dict[str, Any]
) -> None:
    """Seven responses 504 to requests with a deadline of 1 s do not open the circuit breaker."""
    async with start_world(client={"max_scale_cycles": 1}) as world:
        replica = world.replicas[0]
        replica.always = Status(code=504, error="deadline_exceeded", detail="too late")
        for _ in range(7):
            await world.post(body, route, **{"x-request-timeout-ms": "1000"})
        assert len(replica.received) == 7
        replica.always = FaultyResponse()
        assert await chat(world) == "ray_serve"
        assert not world.observer.of(EndpointChanged)


async def test_the_error_of_late_embeddings_names_no_token(start_world: StartWorld) -> None:
    """The error of an embedding request that times out says that no result arrived."""
    async with start_world(client={"timeout": 0.1}) as world:
        world.replicas[0].always = Silence()
        _, _, answer = await world.post({"input": "tea"})
    assert "No result arrived" in answer["error"]["message"]


async def test_models_are_listed(start_world: StartWorld) -> None:
    """`/v1/models` and `/api/tags` list the embedding model too; a chat with that model gets 404."""
    async with start_world() as world, ollama_client(world.api) as client:
        names = [model.id async for model in world.client.models.list()]
        assert (await world.client.models.retrieve(MODEL)).id == MODEL
        tags = [model.model for model in (await client.list()).models]
        shown = await client.show(MODEL)
        chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        status, _, _ = await world.post(chat, "/v1/chat/completions")
    assert names == ["fake", "mongars", MODEL]
    assert tags == ["fake:latest", "mongars:latest", f"{MODEL}:latest"]
    assert shown.capabilities == ["embedding"]
    assert status == 404


async def test_the_embedding_model_is_told_apart_from_an_unknown_one(
    start_world: StartWorld,
) -> None:
    """A generation with the embedding model is refused for that reason; unknown names get every name listed."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    async with start_world() as world:
        for path in ("/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate"):
            status, _, answer = await world.post({**asked, "model": MODEL}, path)
            assert (status, "gives embeddings only" in str(answer)) == (404, True)
            status, _, answer = await world.post({**asked, "model": "nope"}, path)
            assert (status, "embeddings" in str(answer)) == (404, False)
        with pytest.raises(openai.NotFoundError, match=f"Served: .*'{MODEL}'"):
            await world.client.models.retrieve("nope")


async def test_no_model_is_configured(start_world: StartWorld) -> None:
    """Without a configured embedding model, embedding requests get 404 that names the setting, and none is listed."""
    async with start_world(embedding_model=None) as world:
        status, _, answer = await world.post({"input": "tea"})
        names = [model.id async for model in world.client.models.list()]
        assert not world.replicas[0].received
    assert status == 404
    assert "RAY_EMBEDDING_MODEL" in answer["error"]["message"]
    assert names == ["fake", "mongars"]


@asynccontextmanager
async def ollama_client(api: Api) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(
        host=api.url, headers={"Authorization": f"Bearer {api.key}"}, trust_env=False
    )
    async with client:
        yield client


@pytest.mark.parametrize("name", ["mongars", MODEL, f"{MODEL}:latest"])
async def test_the_official_ollama_client_embeds(start_world: StartWorld, name: str) -> None:
    """The official Ollama client gets vectors, counts and durations; `truncate` is accepted."""
    async with start_world() as world, ollama_client(world.api) as client:
        found = await client.embed(name, TEXTS, truncate=True, keep_alive="5m")
        one = await client.embed(name, "a cup of tea")
        older = await client.embeddings(name, "a cup of tea")
    assert [tuple(vector) for vector in found.embeddings] == await expected(TEXTS)
    assert (found.model, found.prompt_eval_count) == (MODEL, 12)
    assert found.total_duration >= found.load_duration >= 0
    assert [tuple(vector) for vector in one.embeddings] == await expected(TEXTS[:1])
    assert tuple(older.embedding) == tuple(one.embeddings[0])


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/api/embed", {"input": []}, 400, "input"),
        ("/api/embed", {"input": ""}, 400, "input"),
        ("/api/embed", {"input": [1, 2]}, 400, "token numbers"),
        ("/api/embed", {"input": "a", "model": "other"}, 404, "other"),
        ("/api/embed", {"input": "word " * 600, "truncate": True}, 400, "600 tokens"),
        ("/api/embed", {"input": "a", "dimensions": 3}, 400, "dimensions"),
        ("/api/embeddings", {"prompt": ""}, 400, "prompt"),
    ],
)
async def test_wrong_requests_in_ollamas_words(
    start_world: StartWorld, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    """Invalid embedding requests get Ollama's error format; too long a text is refused even with `truncate`."""
    async with start_world() as world:
        found, _, answer = await world.post({"model": "mongars", **body}, path)
    assert (found, list(answer)) == (status, ["error"])
    assert says in answer["error"]


async def test_a_key_is_needed(start_world: StartWorld) -> None:
    """An embedding request without a key gets 401, and no replica receives a request."""
    async with start_world() as world:
        for path in ("/v1/embeddings", "/api/embed", "/api/embeddings"):
            async with world.api.http.post(
                world.api.url + path, data=orjson.dumps({"input": "tea", "prompt": "tea"})
            ) as response:
                assert response.status == 401
        assert not world.replicas[0].received
