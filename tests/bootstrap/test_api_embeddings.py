"""Embeddings of an API process that is built from settings."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from mongars.api.app import build_app
from mongars.bootstrap.api_process import ApiParts
from mongars.bootstrap.first_start import prepare_database
from mongars.settings import load_settings
from mongars.telemetry.instruments import Instruments
from mongars.testing.loopback_server import serving
from mongars.testing.recording import RecordingObserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fastapi import FastAPI

KEY = "a-key-of-sixteen-or-more"
MODEL = "all-minilm-l6-v2"


@asynccontextmanager
async def composed(tmp_path: Path, **variables: str) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client of an API without Ray, built from `variables`, in a home directory of its own."""
    settings = load_settings(
        {
            "MONGARS_HOME": str(tmp_path / "home"),
            "MONGARS_BOOTSTRAP_API_KEY": KEY,
            "USE_RAY_SERVE": "false",
            **variables,
        }
    )
    await asyncio.to_thread(prepare_database, settings, local_key=False)
    metrics = Instruments(version="test")
    parts = ApiParts.make(settings, observer=RecordingObserver(), instruments=metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with parts.database, parts.context.llm, parts.context.embeddings:
            yield
        metrics.close()

    auth = {"Authorization": f"Bearer {KEY}"}
    async with (
        serving(build_app(parts.context, lifespan)) as url,
        aiohttp.ClientSession(url, headers=auth) as http,
    ):
        yield http


@pytest.mark.model
@pytest.mark.slow
async def test_without_ray_the_provisioned_model_embeds(tmp_path: Path) -> None:
    """Without Ray, the provisioned embedding model answers, not as a fallback, and is listed."""
    async with composed(tmp_path) as http:
        async with http.post("/v1/embeddings", json={"input": "a cup of tea"}) as response:
            found = await response.json()
            assert (response.status, found["model"]) == (200, MODEL)
            assert len(found["data"][0]["embedding"]) == 384
            assert response.headers["x-llm-provider"] == "embedded"
            assert response.headers["x-llm-fallback"] == "false"
        async with http.get("/v1/models") as response:
            assert MODEL in [model["id"] for model in (await response.json())["data"]]


@pytest.mark.model
async def test_a_host_without_an_embedding_model_lists_none(tmp_path: Path) -> None:
    """With `RAY_EMBEDDING_MODEL=none`, embeddings get 404 that names the setting, and no embedding model is listed."""
    async with composed(tmp_path, RAY_EMBEDDING_MODEL="none") as http:
        async with http.post("/v1/embeddings", json={"input": "a cup of tea"}) as response:
            assert response.status == 404
            assert "RAY_EMBEDDING_MODEL" in await response.text()
        async with http.get("/v1/models") as response:
            assert MODEL not in await response.text()
