"""Metrics and readiness while Ray is unreachable."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

REFUSED = "http://127.0.0.1:9/generate"
"""A URL that refuses connections: nothing listens on the discard port."""
QUESTION = {"model": "mongars", "messages": [{"role": "user", "content": "good morning"}]}


async def page_of(api: Api) -> str:
    async with api.http.get(api.url + "/metrics", headers=api.auth) as response:
        return await response.text()


def series(page: str, name: str) -> dict[str, float]:
    """The values of one metric by their labels."""
    return {
        labels: float(value)
        for labels, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", page, re.MULTILINE)
    }


async def test_ray_series_exist_before_the_first_request(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    """Each endpoint's counters of requests and failures exist at zero before the first request."""
    async with start_api(endpoints=(REFUSED,)) as api:
        page = await page_of(api)
    for name in ("llm_ray_requests_total", "llm_ray_failures_total"):
        found = series(page, name)
        assert found
        assert set(found.values()) == {0.0}
        assert all('endpoint="127.0.0.1:9"' in labels for labels in found)


async def test_total_outage_is_counted_request_by_request(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
) -> None:
    """Each of three requests without a reachable endpoint counts as one Ray request, one failure and one fallback."""
    async with start_api(endpoints=(REFUSED,)) as api:
        for _ in range(3):
            url = f"{api.url}/v1/chat/completions"
            async with api.http.post(url, json=QUESTION, headers=api.auth) as response:
                assert response.headers["x-llm-fallback"] == "true"
        page = await page_of(api)
    requests = series(page, "llm_ray_requests_total")
    failures = series(page, "llm_ray_failures_total")
    assert sum(requests.values()) == 3
    assert sum(failures.values()) == 3
    assert sum(v for labels, v in failures.items() if 'reason="endpoint_down"' in labels) >= 2
    assert series(page, "llm_requests_total")['outcome="fallback"'] == 3
    durations = series(page, "llm_request_duration_seconds_count")
    assert durations == {'outcome="fallback",provider="embedded"': 3.0}


@pytest.mark.parametrize("wait", ["86400", "Fri, 31 Dec 9999 23:59:59 GMT", "9" * 300])
async def test_an_endpoint_that_wants_to_be_left_alone_is_shown_as_resting(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], wait: str
) -> None:
    """An endpoint that sent a long `Retry-After` is shown as resting, for at most 60 s."""
    async with (
        FakeReplica(Status(code=503, error="overloaded", headers={"Retry-After": wait})) as replica,
        start_api(endpoints=(replica.url,)) as api,
    ):
        url = f"{api.url}/v1/chat/completions"
        async with api.http.post(url, json=QUESTION, headers=api.auth) as response:
            assert response.headers["x-llm-provider"] == "embedded"
        async with api.http.get(f"{api.url}/readyz") as response:
            ready = await response.json()
        assert ready["status"] == "degraded"
        assert ready["parts"]["ray_serve"]["state"] == "resting"
        assert re.search(r"again in (59|60) s", ready["parts"]["ray_serve"]["detail"])
        admin = {"Authorization": f"Bearer {api.admin_key}"}
        async with api.http.get(f"{api.url}/internal/endpoints", headers=admin) as response:
            (endpoint,) = (await response.json())["providers"][0]["endpoints"]
    assert endpoint["state"] == "resting"
    assert 50 < endpoint["opens_in"] <= 60
    assert len(replica.received) == 1
