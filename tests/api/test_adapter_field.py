"""The field `adapter` on the routes of the API: the adapter named generates the answer, or the request is refused."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from mongars.core.clock import SystemClock
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.slot_entry import SlotKey
from mongars.protocol import headers
from mongars.serving.config import ReplicaConfig
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.adapters import FakeAdapter
from mongars.testing.loopback_server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

    Start = Callable[..., AbstractAsyncContextManager[Api]]

CLOCK = SystemClock()
V7 = FakeAdapter(version="v7")
MESSAGES = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "mongars", "messages": MESSAGES},
    "/v1/completions": {"model": "mongars", "prompt": "hello"},
    "/api/chat": {"model": "mongars", "messages": MESSAGES, "stream": False},
    "/api/generate": {"model": "mongars", "prompt": "hello", "stream": False},
    "/api/v1/conversation/chat": {"message": "hello"},
}
EMBEDDING: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "hello"},
    "/api/embed": {"input": "hello"},
    "/api/embeddings": {"prompt": "hello"},
}
on_every_route = pytest.mark.parametrize("path", BODIES)


@asynccontextmanager
async def replica_with_v7() -> AsyncIterator[str]:
    """The URL of a replica that answers with the base model and has the adapter v7 prepared."""
    base = FakeEngine(FakePlan(), clock=CLOCK)
    replica = Replica({"general": base}, ReplicaConfig(), clock=CLOCK, replica_id="r1")
    await replica.start()
    await replica.slot_table.prepare(SlotKey(role="general", digest=V7.digest), V7.engine)
    async with serving(build_ingress(replica)) as url:
        yield f"{url}/generate"


async def post(api: Api, path: str, **fields: Any) -> tuple[int, str, str]:
    """Status, text and adapter header of a response."""
    body = {**{**BODIES, **EMBEDDING}[path], **fields}
    async with api.http.post(api.url + path, json=body, headers=api.auth) as response:
        adapter = response.headers.get(headers.ADAPTER_VERSION, "")
        return response.status, await response.text(), adapter


@on_every_route
async def test_the_named_adapter_answers(start_api: Start, path: str) -> None:
    """On every route, the adapter named in `adapter` generates the answer, in each form in which it can be named."""
    async with replica_with_v7() as url, start_api(endpoints=(url,)) as api:
        for adapter in (
            {"version": "v7"},
            {"digest": V7.digest[:12]},
            {"version": "v7", "digest": V7.digest},
            {"version": "v7", "digest": None, "adapter_path": "/registry/v7"},
            "v7",
            V7.name,
            f"@{V7.digest}",
        ):
            status, text, version = await post(api, path, adapter=adapter)
            assert (status, version) == (200, "v7"), text
            assert V7.name in text


@on_every_route
async def test_without_a_name_the_active_model_answers(start_api: Start, path: str) -> None:
    """Null and an empty object count as absent; `baseline` and `base` name the model without an adapter."""
    async with replica_with_v7() as url, start_api(endpoints=(url,)) as api:
        for adapter in (None, {}, {"version": None}, "baseline", {"version": "base"}):
            status, text, version = await post(api, path, adapter=adapter)
            assert (status, version) == (200, "baseline"), text


@on_every_route
@pytest.mark.parametrize("with_ray", [True, False], ids=["ray", "embedded"])
async def test_an_adapter_that_is_served_nowhere_is_404(
    start_api: Start, path: str, *, with_ray: bool
) -> None:
    """An adapter that neither a replica nor the local model has is refused with 404 and its name."""
    async with replica_with_v7() as url, start_api(endpoints=(url,) if with_ray else ()) as api:
        for adapter in ("v9", {"version": "v9"}, {"version": "v7", "digest": "0" * 12}, ""):
            status, text, _ = await post(api, path, adapter=adapter)
            assert status == 404, text
            assert "dapter" in text


@on_every_route
async def test_a_name_that_cannot_be_read_is_refused(api: Api, path: str) -> None:
    """A value that names no adapter in a known form is refused, and the message names the field."""
    for adapter in (7, ["v7"], {"name": "v7"}, {"adapter_path": "/registry/v7"}, {"version": 7}):
        status, text, _ = await post(api, path, adapter=adapter)
        assert status == (422 if path.startswith("/api/v1") else 400)
        assert "adapter" in text
        assert "AdapterDemand" not in text


@pytest.mark.parametrize("path", EMBEDDING)
@pytest.mark.parametrize("field", ["adapter", "lora"])
async def test_embeddings_have_no_adapters(start_api: Start, path: str, field: str) -> None:
    """A request for embeddings that names an adapter is refused, since the vectors would not be that adapter's."""
    async with start_api(embedding_model="fake-embedding") as api:
        status, text, _ = await post(api, path, **{field: "v7"})
    assert status == 400
    assert field in text
