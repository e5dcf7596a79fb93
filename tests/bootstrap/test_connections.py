"""The number of connections that fit the limit of open files, and the bound on those of Serve's proxy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mongars.bootstrap.connection_limits import connections_within, descriptor_advice
from mongars.bootstrap.proxy import proxy_advice
from mongars.protocol.http1.connections import Connections
from mongars.protocol.http1.limits import HttpLimits
from mongars.protocol.http1.server import guarded
from mongars.serving.config import PROXY_GUARD, EngineSpec, ReplicaConfig, ServingConfig
from mongars.settings import load_settings
from mongars.testing.loopback_server import serving
from mongars.testing.ray_cluster import free_ports

if TYPE_CHECKING:
    from mongars.protocol.asgi import AsgiMessage, Receive, Send

DASHBOARD = "http://127.0.0.1:8265"


async def healthz(_scope: AsgiMessage, _receive: Receive, send: Send) -> None:
    """An ASGI application that stands in for Serve's proxy and answers every request with 200."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"success"})


def application(port: int) -> ServingConfig:
    return ServingConfig(port=port, replica=ReplicaConfig(engine=EngineSpec(kind="fake")))


@pytest.mark.parametrize("bounded", [True, False])
async def test_an_open_proxy_is_pointed_out(*, bounded: bool) -> None:
    """A deployment to a Ray whose proxy does not bound its connections returns advice with the variable to set."""
    protocol = guarded(Connections(HttpLimits(), lambda refused: None)) if bounded else "auto"
    async with serving(healthz, http=protocol) as url:
        config = application(int(url.rpartition(":")[2]))
        advice = await asyncio.to_thread(proxy_advice, config, DASHBOARD)
    if bounded:
        assert advice is None
    else:
        assert advice is not None
        assert next(iter(PROXY_GUARD)) in advice


def test_a_proxy_out_of_reach_is_not_judged() -> None:
    """If the proxy is unreachable from the deploying machine, no advice is given."""
    assert proxy_advice(application(free_ports(1)[0]), DASHBOARD) is None


def test_connections_follow_from_the_limit_of_open_files() -> None:
    """A low limit of open files reduces the admitted connections and gives advice on raising the limit."""
    settings = load_settings({})
    assert connections_within(settings, 65_536) == 4096
    assert descriptor_advice(settings, 65_536) is None
    assert 500 < connections_within(settings, 1024) < 1024
    advice = descriptor_advice(settings, 1024)
    assert advice is not None
    assert "LimitNOFILE" in advice
    assert connections_within(settings, 64) == 16
