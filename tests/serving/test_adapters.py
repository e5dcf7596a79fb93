"""Adapters on a replica, over HTTP: pinned, swapped and named in responses."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.slot_table import SlotKey, SlotTable
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from mongars.serving.config import ReplicaConfig
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.adapters import FakeAdapter, adapter_in
from mongars.testing.loopback_server import serving
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLOCK = SystemClock()
BASE = SlotKey(role="general")
V7 = FakeAdapter(version="v7")
V7_KEY = SlotKey(role="general", digest=V7.digest)
SLOW = FakePlan(token_delay=0.02, slots=8)


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    named: dict[str, Any]
    """The body, or the `meta` event of a stream: both name adapter and replica."""
    text: str


@dataclass(frozen=True)
class Served:
    engine: FakeEngine
    replica: Replica
    url: str
    http: aiohttp.ClientSession

    @property
    def table(self) -> SlotTable:
        return self.replica.slot_table

    async def ask(self, text: str = "good day", *, stream: bool, **fields: object) -> Response:
        body = orjson.dumps({"prompt": text, "stream": stream, **fields})
        async with self.http.post(f"{self.url}/generate", data=body) as response:
            data = await response.read()
            headers = {name.lower(): value for name, value in response.headers.items()}
            if response.content_type != "text/event-stream":
                found = orjson.loads(data)
                return Response(response.status, headers, found, found["content"])
        meta, *events = EventSplitter().feed(data)
        fold = AnswerAccumulator()
        for event in events[:-1]:
            fold.add(read_chunk(event))
        assert events[-1].is_done
        return Response(response.status, headers, orjson.loads(meta.data), fold.text)


@asynccontextmanager
async def served(plan: FakePlan | None = None) -> AsyncIterator[Served]:
    engine = FakeEngine(plan or FakePlan(), clock=CLOCK)
    replica = Replica({"general": engine}, ReplicaConfig(), clock=CLOCK, replica_id="r1")
    await replica.start()
    async with serving(build_ingress(replica)) as url, aiohttp.ClientSession() as http:
        yield Served(engine, replica, url, http)


def soon() -> Deadline:
    return Deadline.after(CLOCK, 10)


def check_names(response: Response, adapter: FakeAdapter | None) -> None:
    """Check that text, headers and body of the response name the same adapter."""
    version = "baseline" if adapter is None else adapter.version
    digest = None if adapter is None else adapter.digest
    assert adapter_in(response.text) == ("baseline" if adapter is None else adapter.name)
    assert response.headers["x-adapter-version"] == response.named["adapter_version"] == version
    assert response.headers.get("x-adapter-digest") == digest
    assert response.named["adapter"] == {"version": version, "digest": digest}
    assert response.headers["x-replica-id"] == response.named["replica"] == "r1"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "pin",
    [
        {"version": "v7"},
        {"version": V7.name},
        {"version": "v7", "digest": V7.digest},
        {"digest": V7.digest},
        {"digest": V7.digest[:12]},
    ],
    ids=["version", "name", "both", "digest", "short-digest"],
)
async def test_a_pinned_adapter_answers_and_is_named(pin: dict[str, str], stream: bool) -> None:
    """A prepared adapter answers requests that pin it; other requests are answered by the base model."""
    async with served() as it:
        await it.table.prepare(V7_KEY, V7.engine)
        check_names(await it.ask(stream=stream, adapter=pin), V7)
        check_names(await it.ask(stream=stream), None)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_old_version_can_be_pinned_after_a_swap_until_it_is_retired(stream: bool) -> None:
    """After a swap the old adapter can be pinned until it is retired; then the pin is refused with 404."""
    async with served() as it:
        await it.table.prepare(V7_KEY, V7.engine)
        it.table.activate(V7_KEY)
        check_names(await it.ask(stream=stream), V7)
        base = {"version": "baseline"}
        check_names(await it.ask(stream=stream, adapter=base), None)
        await it.table.retire(BASE, soon())
        refused = await it.ask(stream=stream, adapter=base)
        assert (refused.status, refused.named["error"], refused.text) == (
            404,
            "adapter_unknown",
            "",
        )
        assert refused.named["param"] == "adapter"


async def test_a_response_names_the_engine_that_produced_it_though_another_is_active_by_then() -> (
    None
):
    """A request that waits in the old engine's queue during a swap is answered by that engine, and named so."""
    async with served(FakePlan(token_delay=0.05, slots=1)) as it:
        await it.table.prepare(V7_KEY, V7.engine)
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(it.ask(stream=stream)) for stream in (True, False, True, False)
            ]
            await eventually(lambda: it.replica.load["waiting"] == 3)
            it.table.activate(V7_KEY)
            check_names(await it.ask(stream=True), V7)
            assert not any(task.done() for task in asked)
        for task in asked:
            check_names(task.result(), None)


async def test_twenty_swaps_under_load_fail_no_request_over_http() -> None:
    """During 20 swaps all requests of eight clients succeed, and each response names the adapter that wrote it."""
    responses: list[tuple[Response, FakeAdapter | None]] = []
    seen: set[str] = set()
    versions: dict[str, FakeAdapter | None] = {"baseline": None}
    done = asyncio.Event()
    async with served(SLOW) as it:

        async def chat(*, stream: bool) -> None:
            while not done.is_set():
                found = await it.ask(stream=stream)
                assert found.status == 200, found
                responses.append((found, versions[found.named["adapter_version"]]))
                seen.add(found.named["adapter_version"])

        async with asyncio.TaskGroup() as group:
            for index in range(8):
                group.create_task(chat(stream=index % 2 == 0))
            current = BASE
            for number in range(20):
                await eventually(lambda number=number: len(seen) > number, seconds=5)
                adapter = FakeAdapter(version=f"v{number}")
                versions[adapter.version] = adapter
                key = SlotKey(role="general", digest=adapter.digest)
                await it.table.prepare(key, lambda adapter=adapter: adapter.engine(SLOW))
                it.table.activate(key)
                await it.table.retire(current, soon())
                current = key
            done.set()
    for response, adapter in responses:
        check_names(response, adapter)
        assert response.text.endswith("[1] you said: good day")
    assert len(seen) >= 20


async def test_a_prepared_engine_that_fails_does_not_make_the_replica_unready() -> None:
    """Readiness depends on the active engine, not on an engine that is only prepared."""
    engine = V7.engine()
    async with served() as it:
        await it.table.prepare(V7_KEY, lambda: engine)
        await engine.fail("it crashed nine times")
        async with it.http.get(f"{it.url}/readyz") as response:
            assert response.status == 200
        refused = await it.ask(stream=True, adapter={"version": "v7"})
        assert (refused.status, refused.named["error"]) == (409, "not_ready")
        check_names(await it.ask(stream=True), None)
        await it.engine.fail("so did the active one")
        async with it.http.get(f"{it.url}/readyz") as response:
            assert response.status == 409


async def test_several_choices_come_from_one_adapter() -> None:
    """All choices of a request come from one adapter, even if a swap happens between two of them."""
    plan = FakePlan(token_delay=0.02, slots=1)
    async with served(plan) as it, asyncio.TaskGroup() as group:
        await it.table.prepare(V7_KEY, V7.engine)
        asked = group.create_task(it.ask(stream=False, n=4))
        await eventually(lambda: it.replica.load["active"] == 1)
        it.table.activate(V7_KEY)
        await it.table.retire(BASE, soon())
        choices = (await asked).named["choices"]
        assert [each["content"] for each in choices] == ["[1] you said: good day"] * 4
