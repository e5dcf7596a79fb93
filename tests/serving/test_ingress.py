"""The replica's HTTP interface, over real sockets, with the fake engine."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import orjson
import pytest

from mongars.core.clock import SystemClock
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter, ServerEvent
from mongars.serving.config import ReplicaConfig, SamplingDefaults
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.loopback_server import serving
from support import eventually, impatient


@dataclass(frozen=True)
class Served:
    url: str
    engine: FakeEngine
    replica: Replica
    http: aiohttp.ClientSession

    def post(
        self, body: object, **options: object
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.http.post(self.url + "/generate", data=orjson.dumps(body), **options)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@asynccontextmanager
async def served(plan: FakePlan, **limits: object) -> AsyncIterator[Served]:
    engine = FakeEngine(plan, clock=SystemClock())
    replica = Replica(
        {"general": engine}, ReplicaConfig(**limits), clock=SystemClock(), replica_id="r1"
    )
    await replica.start()
    async with serving(build_ingress(replica)) as url, aiohttp.ClientSession() as http:
        yield Served(url, engine, replica, http)


async def events_of(response: aiohttp.ClientResponse) -> list[ServerEvent]:
    return EventSplitter().feed(await response.read())


async def test_whole_answer_has_the_published_fields() -> None:
    """A JSON answer has text, adapter, usage and replica under the published names."""
    async with served(FakePlan()) as it, it.post({"prompt": "good morning"}) as response:
        body = await response.json()
        assert response.status == 200
        assert body["content"] == body["message"]["content"] == "[1] you said: good morning"
        assert body["adapter_version"] == response.headers["X-Adapter-Version"] == "baseline"
        assert body["usage"] == {
            "model": "fake",
            "generations": 1,
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        assert body["finish_reason"] == "stop"
        assert body["replica"] == response.headers["X-Replica-Id"] == "r1"
        assert body["degraded"] is False


async def test_stream_is_meta_then_chunks_then_done_with_the_same_text() -> None:
    """A stream starts with `meta`, ends with `[DONE]`, and has the text and usage of the answer in one piece."""
    async with served(FakePlan()) as it:
        async with it.post({"prompt": "good morning"}) as response:
            whole = await response.json()
        async with it.post({"prompt": "good morning", "stream": True}) as response:
            events = await events_of(response)
    assert events[0].name == "meta"
    assert orjson.loads(events[0].data)["engine"] == "fake"
    assert events[-1].is_done
    accumulated = AnswerAccumulator()
    for event in events[1:-1]:
        accumulated.add(read_chunk(event))
    assert accumulated.text == whole["content"]
    assert accumulated.usage is not None
    assert accumulated.usage.total_tokens == whole["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        pytest.param(b"{oops", 400, "invalid_request", "parse JSON", id="malformed"),
        pytest.param(b"[1]", 400, "invalid_request", "object", id="no-object"),
        pytest.param(b"{}", 400, "prompt_missing", "no message", id="nothing"),
        pytest.param(b'{"prompt": "  "}', 400, "prompt_missing", "no message", id="blank"),
        pytest.param(b'{"prompt": 5}', 400, "invalid_request", "prompt", id="wrong-type"),
        pytest.param(
            b'{"prompt": "x", "temperature": 9}', 400, "invalid_request", "temperature", id="range"
        ),
        pytest.param(
            b'{"prompt": "x", "response_format": ' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"}",
            400,
            "invalid_request",
            "nested",
            id="deep-nesting",
        ),
        pytest.param(
            b'{"prompt": "x", "response_format": {"schema": {"type": "string", "pattern":'
            b' "^((((a{0,99}){0,99}){0,99}){0,99}){0,99}$"}}}',
            400,
            "invalid_request",
            "repetitions",
            id="pattern-bomb",
        ),
        pytest.param(
            b'{"prompt": "x", "response_format": {"schema": {"maxItems": 1000000000}}}',
            400,
            "invalid_request",
            "repetitions",
            id="count-bomb",
        ),
        pytest.param(
            b'{"prompt": "x", "adapter": {"version": "v9"}}',
            404,
            "adapter_unknown",
            "v9",
            id="adapter",
        ),
        pytest.param(
            b'{"prompt": "x", "adapter": {"name": "canary"}}',
            400,
            "invalid_request",
            "version, digest or both",
            id="adapter-without-known-field",
        ),
        pytest.param(
            b'{"prompt": "x", "adapter": {"version": "' + b"v" * 300 + b'"}}',
            400,
            "invalid_request",
            "adapter.version",
            id="long-adapter-name",
        ),
        pytest.param(
            b'{"prompt": "' + b"word " * 9000 + b'"}',
            400,
            "context_length_exceeded",
            "4096",
            id="long",
        ),
        pytest.param(
            b'{"prompt": "' + b"x" * 1_000_000 + b'"}', 413, "too_large", "1000000", id="huge"
        ),
    ],
)
async def test_bad_input_gets_a_status_and_a_reason(
    body: bytes, status: int, code: str, says: str
) -> None:
    """Each kind of bad request gets its HTTP status and a body that names the mistake."""
    async with (
        served(FakePlan()) as it,
        it.http.post(it.url + "/generate", data=body) as response,
    ):
        answer = await response.json()
        assert response.status == status
        assert answer["content"] == ""
        assert answer["error"] == code
        assert says in answer["detail"]
        assert answer["adapter_version"] == "baseline"


@pytest.mark.parametrize(
    ("adapter", "status"),
    [
        ({"version": "v7", "adapter_path": "/registry/v7", "updated_at": "2025-01-08"}, 200),
        ({"version": "baseline", "adapter_path": "", "weights_path": None}, 200),
        ({"version": "baseline"}, 200),
        ({"version": "base"}, 200),
        ({"version": None, "digest": None}, 200),
        ({"version": "v7", "adapter_path": None}, 404),
        ({"digest": "sha256:0"}, 404),
        ({"version": "baseline", "digest": "sha256:0"}, 404),
    ],
)
async def test_a_pinned_adapter_is_served_or_refused(
    adapter: dict[str, str | None], status: int
) -> None:
    """A registry entry, as the earlier client sends it, gets the served model; a pin of another adapter gets 404."""
    async with (
        served(FakePlan()) as it,
        it.post({"prompt": "good morning", "adapter": adapter}) as response,
    ):
        body = await response.json()
        assert response.status == status
        assert body["adapter_version"] == "baseline"
        assert body["content"] == ("[1] you said: good morning" if status == 200 else "")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 9}, "temperature"),
        ({"prompt": " "}, "prompt"),
        ({"grammar": 'root ::= "x"'}, "grammar"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
    ],
)
async def test_the_parameter_at_fault_is_named(fields: dict[str, object], param: str) -> None:
    """The error has the name of the wrong parameter in `param`."""
    async with served(FakePlan()) as it, it.post({"prompt": "x"} | fields) as response:
        assert response.status == 400
        assert (await response.json())["param"] == param


async def test_unreadable_deadline_header_is_named() -> None:
    """A timeout header that is no number is refused with 400."""
    async with (
        served(FakePlan()) as it,
        it.post({"prompt": "x"}, headers={"X-Request-Timeout-Ms": "soon"}) as response,
    ):
        assert response.status == 400
        assert "x-request-timeout-ms" in (await response.json())["detail"]


async def test_cut_stream_ends_with_an_error_event_and_no_done() -> None:
    """If the engine breaks off, the stream ends with an error event and without `[DONE]`."""
    async with (
        served(FakePlan(cut_after_tokens=2)) as it,
        it.post({"prompt": "good morning", "stream": True}) as response,
    ):
        events = await events_of(response)
    assert events[-1].name == "error"
    assert orjson.loads(events[-1].data)["error"] == "generation_interrupted"
    assert not any(event.is_done for event in events)


async def test_cut_whole_answer_is_an_error_not_a_short_answer() -> None:
    """Without streaming, an answer that breaks off is a 500 without content."""
    async with (
        served(FakePlan(cut_after_tokens=2)) as it,
        it.post({"prompt": "good morning"}) as response,
    ):
        assert response.status == 500
        assert (await response.json())["content"] == ""


async def test_full_queue_is_refused_with_retry_after() -> None:
    """If slots and queue are full, a request is refused with 503 and `Retry-After`; the others are answered."""
    plan = FakePlan(slots=1, token_delay=0.03)
    async with served(plan, max_waiting=1) as it:

        async def ask() -> tuple[int, str | None]:
            async with it.post({"prompt": "a b c d"}) as response:
                return response.status, response.headers.get("Retry-After")

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask()) for _ in range(4)]
        results = [task.result() for task in tasks]
    assert sorted(status for status, _ in results) == [200, 200, 503, 503]
    assert all(int(wait or 0) >= 1 for status, wait in results if status == 503)


async def test_deadline_shorter_than_the_queue_is_refused_on_arrival() -> None:
    """A request whose timeout is shorter than the expected wait in the queue is refused on arrival."""
    async with served(FakePlan(slots=1, token_delay=0.05)) as it:
        hurry = {"X-Request-Timeout-Ms": "50"}
        await _read(it, {"prompt": "how long answers take is learnt"})
        async with (
            it.post({"prompt": "a b c d", "stream": True}) as first,
            it.post({"prompt": "x"}, headers=hurry) as second,
        ):
            await first.content.readany()
            assert second.status == 503
            assert "Retry-After" in second.headers


async def test_deadline_that_passes_while_answering_ends_the_stream_with_an_error() -> None:
    """A stream that runs past the request's deadline ends with an error event."""
    async with (
        served(FakePlan(token_delay=0.05)) as it,
        it.post(
            {"prompt": "a b c d e f g h", "stream": True}, headers={"X-Request-Timeout-Ms": "120"}
        ) as response,
    ):
        events = await events_of(response)
    assert orjson.loads(events[-1].data)["error"] == "deadline_exceeded"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "plan",
    [FakePlan(first_token_delay=5), FakePlan(token_delay=0.2)],
    ids=["before-first-token", "mid-answer"],
)
async def test_client_that_leaves_frees_the_slot(plan: FakePlan, stream: bool) -> None:
    """If the client disconnects, the engine stops within 0.2 s, before the first token and after, streamed or not."""
    body = {"prompt": "a b c d e f", "stream": stream}
    async with served(plan) as it, impatient(lambda: _read(it, body)) as client:
        await eventually(lambda: it.engine.busy == 1)
        await client.leave()
        await eventually(lambda: it.engine.busy == 0, seconds=0.2)
        assert it.replica.load == {"slots": 4, "active": 0, "waiting": 0}


async def test_client_that_leaves_the_queue_is_forgotten() -> None:
    """A request whose client disconnects while it waits for a slot leaves the queue within 0.2 s."""
    body = {"prompt": "a b c", "stream": True}
    plan = FakePlan(slots=1, token_delay=0.2)
    async with served(plan) as it, impatient(lambda: _read(it, body)):
        await eventually(lambda: it.engine.busy == 1)
        async with impatient(lambda: _read(it, body)) as second:
            await eventually(lambda: it.replica.load["waiting"] == 1)
            await second.leave()
            await eventually(lambda: it.replica.load["waiting"] == 0, seconds=0.2)


async def _read(it: Served, body: object) -> None:
    async with it.post(body) as response:
        await response.read()


async def test_readiness_tells_the_engines_state() -> None:
    """`/readyz` is 200 only while the engine can answer; `/healthz` always answers with the engine's state."""
    async with served(FakePlan()) as it:
        async with it.http.get(it.url + "/readyz") as response:
            assert response.status == 200
        await it.engine.aclose()
        async with it.http.get(it.url + "/readyz") as response:
            assert response.status == 409
            assert response.headers["Retry-After"] == "1"
        async with it.http.get(it.url + "/healthz") as response:
            assert (await response.json())["engine_state"] == "stopped"
        async with it.post({"prompt": "x"}) as response:
            assert response.status == 409
            assert (await response.json())["error"] == "not_ready"


async def test_new_defaults_apply_to_running_replicas() -> None:
    """A changed sampling default applies to the next request, without a restart."""
    async with served(FakePlan()) as it:
        it.replica.use_defaults(SamplingDefaults(max_tokens=2))
        async with it.post({"prompt": "a b c d"}) as response:
            body = await response.json()
        assert body["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 2


async def test_the_token_is_required_where_one_is_set() -> None:
    """If a token is configured, requests need it; `/readyz` does not."""
    token = "a-token-of-some-length"
    digest = hashlib.sha256(token.encode()).hexdigest()
    async with served(FakePlan(), token_sha256=digest) as it:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": f"Bearer {token}"}, 200),
        ):
            async with it.post({"prompt": "x"}, headers=headers) as response:
                assert response.status == status
        async with it.http.get(it.url + "/readyz") as response:
            assert response.status == 200


async def test_compressed_bodies_are_refused_by_name() -> None:
    """A gzip body is refused with 415 and a message that says which encoding is accepted."""
    async with served(FakePlan()) as it:
        for path in ("/generate", "/v1/embeddings"):
            async with it.http.post(
                it.url + path, data=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}
            ) as response:
                assert response.status == 415
                assert "identity" in await response.text()


@pytest.mark.parametrize(
    "plan", [FakePlan(first_token_delay=5), FakePlan(token_delay=0.15)], ids=["no-token", "cut"]
)
async def test_a_late_whole_answer_is_504(plan: FakePlan) -> None:
    """An answer in one piece that passes the deadline gets 504."""
    headers = {"X-Request-Timeout-Ms": "250"}
    async with served(plan) as it, it.post({"prompt": "Hi"}, headers=headers) as response:
        assert response.status == 504


async def test_head_health_and_allow() -> None:
    """`/health`, `/healthz`, `/readyz` and `/v1/models` answer HEAD; a wrong method gets 405 with `Allow`."""
    async with served(FakePlan()) as it:
        for path in ("/health", "/healthz", "/readyz", "/v1/models"):
            async with it.http.head(it.url + path) as response:
                assert (response.status, await response.read()) == (200, b"")
                assert int(response.headers["Content-Length"]) > 0
        for path, allowed in (("/generate", "POST"), ("/healthz", "GET, HEAD")):
            async with it.http.request("DELETE", it.url + path) as response:
                assert (response.status, response.headers["Allow"]) == (405, allowed)
                assert "Method Not Allowed" in (await response.json())["detail"]


@pytest.mark.parametrize("path", ["/generate", "/v1/embeddings"])
async def test_client_that_leaves_while_it_sends_is_no_failure(path: str) -> None:
    """If the client disconnects before its body is complete, the application raises nothing."""
    messages = iter(
        [
            {"type": "http.request", "body": b'{"prompt": ', "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return next(messages)

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
    }
    async with served(FakePlan()) as it:
        await build_ingress(it.replica)(scope, receive, send)
    assert sent[0]["status"] == 400


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_prompt_that_is_too_long_is_named_as_it_was_sent(*, stream: bool) -> None:
    """Too long a prompt is refused by the name of the field that held it: `prompt` or `messages`."""
    text = "word " * 300
    bodies = {"prompt": text}, {"messages": [{"role": "user", "content": text}], "prompt": "x"}
    async with served(FakePlan(context_tokens=200)) as it:
        for body, field in zip(bodies, ("prompt", "messages"), strict=True):
            async with it.post({**body, "stream": stream}) as response:
                found = await response.json()
                assert (response.status, found["param"]) == (400, field)
                assert f"length of the {field}." in found["detail"]


@pytest.mark.parametrize("generate_path", ["/generate", "/v1/answers"])
async def test_unknown_routes_have_the_format_of_their_path(generate_path: str) -> None:
    """A wrong method of `/generate` has its error body; unknown paths and wrong methods under `/v1` have OpenAI's."""
    async with served(FakePlan(), generate_path=generate_path) as it:
        async with it.http.get(it.url + generate_path) as response:
            found = await response.json()
            assert (response.status, response.headers["Allow"]) == (405, "POST")
            assert found["content"] == ""
            assert (found["error"], found["adapter_version"]) == ("invalid_request", "baseline")
            assert "GET" in found["detail"]
            assert response.headers["x-adapter-version"] == "baseline"
        for method, path, status in (
            ("GET", "/v1/models/x", 404),
            ("POST", "/v1/completions", 404),
            ("GET", "/v1", 404),
            ("DELETE", "/v1/embeddings", 405),
        ):
            async with it.http.request(method, it.url + path) as response:
                error = (await response.json())["error"]
                assert (response.status, error["type"]) == (status, "invalid_request_error")
                assert path in error["message"]
        async with it.http.get(it.url + "/nothing") as response:
            assert (response.status, list(await response.json())) == (404, ["detail"])
