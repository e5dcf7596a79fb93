"""CORS: calls from web pages of other origins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from fastapi import FastAPI
from web_page import web_page

from mongars.api.cors import with_cors
from mongars.api.error_responses import ErrorResponses
from mongars.core.errors import ConfigurationError
from mongars.core.urls import web_origin
from mongars.engines.fake import FakePlan
from mongars.settings import load_settings
from mongars.testing.loopback_server import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from api_world import Api

    Start = Callable[..., AbstractAsyncContextManager[Api]]

CHAT = "/v1/chat/completions"
APP = "https://app.example.org"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang",
}
CALLS = """
const call = async (key, body, more = {}) => {
  const response = await fetch("%s/v1/chat/completions", {
    method: "POST",
    headers: { "Authorization": "Bearer " + key, "Content-Type": "application/json", ...more },
    body: JSON.stringify({ model: "fake", messages: [{ role: "user", content: "Hi" }], ...body }),
  });
  return {
    status: response.status,
    id: response.headers.get("x-request-id"),
    provider: response.headers.get("x-llm-provider"),
    adapter: response.headers.get("x-adapter-version"),
    retry: response.headers.get("retry-after"),
    text: await response.text(),
  };
};
const key = "%s";
"""


@pytest.mark.slow
async def test_a_page_chats(start_api: Start, tmp_path: Path) -> None:
    """A browser page of a listed origin can read whole answers, streams, errors and their headers."""
    async with web_page() as page, start_api(cors_origins=(page.origin,)) as api:
        found = await page.result(
            CALLS % (api.url, api.key)
            + """return {
                whole: await call(key, {}, { "x-request-id": "req-of-the-page" }),
                stream: await call(key, { stream: true }),
                wrong: await call("nonsense", {}),
                unknown: await call(key, { model: "other" }),
            };""",
            tmp_path / "browser",
        )
    assert "failed" not in found
    statuses = {name: answer["status"] for name, answer in found.items()}
    assert statuses == {"whole": 200, "stream": 200, "wrong": 401, "unknown": 404}
    assert found["whole"]["id"] == "req-of-the-page"
    assert all(answer["id"] for answer in found.values())
    for name in ("whole", "stream"):
        assert (found[name]["provider"], found[name]["adapter"]) == ("embedded", "baseline")
    assert found["stream"]["text"].endswith("data: [DONE]\n\n")
    assert "model_not_found" in found["unknown"]["text"]


@pytest.mark.slow
async def test_a_page_of_another_origin_gets_nothing(start_api: Start, tmp_path: Path) -> None:
    """The browser blocks the response for a page whose origin is not listed."""
    async with web_page() as page, start_api(cors_origins=(APP,)) as api:
        script = CALLS % (api.url, api.key) + "return await call(key, {});"
        found = await page.result(script, tmp_path / "browser")
    assert found == {"failed": "TypeError: Failed to fetch"}


async def test_preflight_needs_no_key(start_api: Start) -> None:
    """A CORS preflight without credentials is answered, and allows the headers of the official client library."""
    headers = {"Origin": APP, **PREFLIGHT}
    async with (
        start_api(cors_origins=(APP,)) as api,
        api.http.options(api.url + CHAT, headers=headers) as response,
    ):
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == APP
        assert "x-stainless-lang" in response.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in response.headers
        assert "Origin" in response.headers["Vary"]
        assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/nowhere", "/metrics", CHAT])
async def test_errors_can_be_read_by_the_page(start_api: Start, path: str) -> None:
    """Error responses carry the CORS headers, so that a page can read them."""
    async with (
        start_api(cors_origins=(APP,)) as api,
        api.http.get(api.url + path, headers={"Origin": APP}) as response,
    ):
        assert response.status in {401, 404, 405}
        assert response.headers["Access-Control-Allow-Origin"] == APP
        assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]


async def test_failures_of_the_engine_can_be_read_by_the_page(start_api: Start) -> None:
    """An error from the engine carries the CORS headers."""
    body = {"model": "fake", "messages": [{"role": "user", "content": "Hi " * 300}]}
    async with (
        start_api(FakePlan(context_tokens=50), cors_origins=(APP,)) as api,
        api.http.post(api.url + CHAT, json=body, headers={**api.auth, "Origin": APP}) as response,
    ):
        assert response.status == 400
        assert response.headers["Access-Control-Allow-Origin"] == APP


async def test_a_defect_can_be_read_by_the_page() -> None:
    """The 500 response to an unhandled exception carries the CORS headers."""
    app = FastAPI()
    ErrorResponses().install(app)

    @app.get("/defect")
    async def defect() -> None:
        raise RuntimeError

    async with (
        serving(with_cors(app, (APP,))) as url,
        aiohttp.ClientSession() as http,
        http.get(url + "/defect", headers={"Origin": APP}) as response,
    ):
        assert (response.status, (await response.json())["error"]) == (500, "inference_failed")
        assert response.headers["Access-Control-Allow-Origin"] == APP


async def test_off_by_default(api: Api) -> None:
    """Without configured origins, no response has a CORS header."""
    headers = {"Origin": APP, **PREFLIGHT}
    async with api.http.options(api.url + CHAT, headers=headers) as response:
        assert not any(name.lower().startswith("access-control") for name in response.headers)
    async with api.http.get(api.url + "/health", headers={"Origin": APP}) as response:
        assert not any(name.lower().startswith("access-control") for name in response.headers)


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://App.Example.org", "https://app.example.org"),
        ("https://app.example.org/", "https://app.example.org"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(given: str, origin: str) -> None:
    """A configured origin is normalised: lower case, without trailing slash and default port."""
    assert web_origin(given) == origin


@pytest.mark.parametrize(
    "given",
    [
        "*",
        "null",
        "app.example.org",
        "https://*.example.org",
        "https://a.example/app",
        "https://u@a.example",
        "ftp://a.example",
        "https://é.example",
    ],
)
def test_what_is_no_origin_is_refused_by_name(given: str) -> None:
    """A list entry that is `*`, `null` or no valid origin stops the start with the variable's name."""
    with pytest.raises(ConfigurationError, match="MONGARS_CORS_ORIGINS"):
        load_settings({"MONGARS_CORS_ORIGINS": f"https://good.example, {given}"})
