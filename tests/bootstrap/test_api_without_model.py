"""An API host on which no model was provisioned."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp

from mongars.api.app import build_app
from mongars.bootstrap.api_process import ApiParts
from mongars.bootstrap.first_start import prepare_database
from mongars.cli.doctor import examine
from mongars.settings import load_settings
from mongars.telemetry.instruments import Instruments
from mongars.testing.loopback_server import serving
from mongars.testing.recording import RecordingObserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fastapi import FastAPI

CURE = "python -m scripts.provision_models"
KEY = "a-key-of-sixteen-or-more"


async def test_missing_fallback_is_said_everywhere(tmp_path: Path) -> None:
    """Without a provisioned model, `/readyz`, a 502 response and `doctor` name the command that provisions one."""
    settings = load_settings(
        {
            "MONGARS_HOME": str(tmp_path / "home"),
            "MONGARS_CACHE": str(tmp_path / "cache"),
            "MONGARS_BOOTSTRAP_API_KEY": KEY,
            "RAY_SERVE_URL": "http://127.0.0.1:9/generate",
        }
    )
    await asyncio.to_thread(prepare_database, settings, local_key=False)
    metrics = Instruments(version="test")
    parts = ApiParts.make(settings, observer=RecordingObserver(), instruments=metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with parts.database, parts.context.llm:
            yield
        metrics.close()

    app = build_app(parts.context, lifespan)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        ask = {"model": "mongars", "messages": [{"role": "user", "content": "hi"}]}
        auth = {"Authorization": f"Bearer {KEY}"}
        async with http.post(f"{url}/v1/chat/completions", json=ask, headers=auth) as response:
            assert response.status == 502
            assert CURE in (await response.json())["error"]["message"]
        async with http.get(f"{url}/readyz") as response:
            fallback = (await response.json())["parts"]["embedded"]
        assert fallback["state"] == "off"
        assert CURE in fallback["detail"]
    found = {finding.what: finding for finding in await asyncio.to_thread(examine, settings)}
    assert found["fallback"].verdict == "warn"
    assert CURE in found["fallback"].detail
