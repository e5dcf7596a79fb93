"""The operator's endpoints: the state of each Ray endpoint, and taking one out of use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api


async def ask(api: Api) -> dict[str, str]:
    body = {"model": "mongars", "messages": [{"role": "user", "content": "Say the words."}]}
    async with api.http.post(
        f"{api.url}/v1/chat/completions", json=body, headers=api.auth
    ) as response:
        assert response.status == 200
        await response.read()
        return {name.lower(): value for name, value in response.headers.items()}


async def operate(api: Api, method: str, path: str) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {api.admin_key}"}
    async with api.http.request(
        method, f"{api.url}/internal/endpoints{path}", headers=headers
    ) as response:
        return response.status, await response.json()


async def shown(api: Api) -> list[dict[str, Any]]:
    status, body = await operate(api, "GET", "")
    assert status == 200
    ray = body["providers"][0]
    assert ray["name"] == "ray_serve"
    return list(ray["endpoints"])


async def test_endpoints_show_what_requests_found(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    async with (
        FakeReplica(Status(code=500, error="inference_failed")) as broken,
        FakeReplica() as healthy,
        start_api(endpoints=(broken.url, healthy.url)) as api,
    ):
        await ask(api)
        first, second = await shown(api)
        assert (first["id"], second["id"]) == ("ray-1", "ray-2")
        assert first["last_error"] == "inference_failed"
        assert first["failures"] == 1
        assert second["state"] == "up"
        assert second["adapter_version"] == "v7"
        assert second["first_token_seconds"] > 0
        assert second["in_flight"] == 0
        assert second["limit"] >= 8


async def test_a_drained_endpoint_gets_nothing_until_it_is_reset(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    async with (
        FakeReplica(name="one") as one,
        FakeReplica(name="two") as two,
        start_api(endpoints=(one.url, two.url)) as api,
    ):
        status, body = await operate(api, "POST", "/ray-1/drain")
        assert status == 200
        assert body["providers"][0]["endpoints"][0]["state"] == "drained"
        for _ in range(6):
            assert (await ask(api))["x-replica-id"] == "two"
        assert one.received == []
        await operate(api, "POST", "/ray-1/reset")
        await operate(api, "POST", "/ray-2/drain")
        assert (await ask(api))["x-replica-id"] == "one"


async def test_with_every_endpoint_drained_the_local_engine_answers(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    async with FakeReplica() as replica, start_api(endpoints=(replica.url,)) as api:
        await operate(api, "POST", "/ray-1/drain")
        found = await ask(api)
        assert found["x-llm-provider"] == "embedded"
        assert found["x-llm-fallback"] == "true"
        assert replica.received == []


@pytest.mark.parametrize("path", ["/ray-9/drain", "/ray-9/reset", "/%20/drain"])
async def test_an_unknown_endpoint_is_named(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], path: str
) -> None:
    async with FakeReplica() as replica, start_api(endpoints=(replica.url,)) as api:
        status, body = await operate(api, "POST", path)
        assert status == 404
        assert "/internal/endpoints" in body["detail"]


async def test_only_administrators_may_look_or_change(api: Api) -> None:
    for method, path in (("GET", ""), ("POST", "/ray-1/drain"), ("POST", "/ray-1/reset")):
        url = f"{api.url}/internal/endpoints{path}"
        async with api.http.request(method, url, headers=api.auth) as response:
            assert response.status == 403
        async with api.http.request(method, url) as response:
            assert response.status == 401
