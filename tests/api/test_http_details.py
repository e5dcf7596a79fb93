"""HTTP details that clients and proxies rely on."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from api_world import Api

CHAT = "/v1/chat/completions"
OWN_CHAT = "/api/v1/conversation/chat"


@pytest.mark.parametrize("path", [CHAT, OWN_CHAT, "/token"])
async def test_compressed_bodies_are_refused_by_name(api: Api, path: str) -> None:
    """A gzip body gets 415 that names the only accepted encoding, `identity`."""
    data = gzip.compress(b'{"messages": []}')
    headers = {**api.auth, "Content-Encoding": "gzip"}
    async with api.http.post(api.url + path, data=data, headers=headers) as response:
        assert response.status == 415
        assert "identity" in await response.text()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}),
        (OWN_CHAT, {"message": "Hi"}),
    ],
)
async def test_a_long_session_id_is_refused_by_its_own_name(
    api: Api, path: str, body: dict[str, object]
) -> None:
    """Too long an `x-session-id` is refused with an error that names the header."""
    headers = {**api.auth, "x-session-id": "s" * 201}
    async with api.http.post(api.url + path, json=body, headers=headers) as response:
        assert response.status in {400, 422}
        assert "x-session-id" in await response.text()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [(CHAT, "POST, OPTIONS"), ("/token", "POST, OPTIONS"), ("/v1/models", "GET, HEAD, OPTIONS")],
)
async def test_allow_names_the_methods(api: Api, path: str, allowed: str) -> None:
    """A 405 response and the response to OPTIONS list the methods of the path in `Allow`."""
    async with api.http.request("DELETE", api.url + path) as response:
        assert (response.status, response.headers["Allow"]) == (405, allowed)
        assert await response.json()
    async with api.http.options(api.url + path) as response:
        assert (response.status, response.headers["Allow"]) == (204, allowed)


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/healthz",
        "/readyz",
        "/ready",
        "/v1/models",
        "/v1/models/mongars",
        "/metrics",
        "/openapi.json",
        "/api/v1/conversation/history",
        "/internal/endpoints",
        "/nowhere",
    ],
)
async def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    """HEAD gets the status and headers of GET, and no body."""
    headers = {"Authorization": f"Bearer {api.admin_key}", "x-request-id": "req-1"}
    async with api.http.get(api.url + path, headers=headers) as response:
        got = (response.status, {**response.headers, "Date": "", "Content-Length": ""})
        assert await response.read()
    async with api.http.head(api.url + path, headers=headers) as response:
        assert (response.status, {**response.headers, "Date": "", "Content-Length": ""}) == got
        assert int(response.headers["Content-Length"]) > 0
        assert await response.read() == b""


async def test_head_needs_the_key_that_get_needs(api: Api) -> None:
    """HEAD without a key gets 401 where GET needs a key."""
    async with api.http.head(f"{api.url}/v1/models") as response:
        assert response.status == 401


async def test_head_of_a_route_without_get(api: Api) -> None:
    """HEAD on a route that only takes POST gets 405."""
    async with api.http.head(api.url + CHAT, headers=api.auth) as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST, OPTIONS")


async def test_health_is_another_name_of_healthz(api: Api) -> None:
    """`/health` and `/healthz` both answer without a key."""
    for path in ("/health", "/healthz"):
        async with api.http.get(api.url + path) as response:
            assert (response.status, (await response.json())["status"]) == (200, "ok")


async def test_no_redirect_repeats_the_host(api: Api) -> None:
    """A path with an extra trailing slash gets 404, not a redirect to the host in the request's `Host` header."""
    headers = {**api.auth, "Host": "elsewhere.example"}
    async with api.http.get(
        f"{api.url}/v1/models/", headers=headers, allow_redirects=False
    ) as response:
        assert response.status == 404
        assert "elsewhere" not in str(response.headers) + await response.text()


@pytest.mark.parametrize("key", ["nonsense", "mg-0-nonsense", "a.b.c"])
async def test_a_wrong_key_in_the_words_clients_know(api: Api, key: str) -> None:
    """A wrong key gets 401 with OpenAI's code and text, by which LiteLLM and aider recognise the error."""
    headers = {"Authorization": f"Bearer {key}"}
    async with api.http.post(api.url + CHAT, json={}, headers=headers) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (401, "invalid_api_key")
        assert error["message"].startswith("Incorrect API key provided")
