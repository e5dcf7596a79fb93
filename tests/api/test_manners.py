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
    """A gzip body is 415 that says what is read, not a complaint about its bytes."""
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
    """The error names the header that is too long, whatever it would have become inside."""
    headers = {**api.auth, "x-session-id": "s" * 201}
    async with api.http.post(api.url + path, json=body, headers=headers) as response:
        assert response.status in {400, 422}
        assert "x-session-id" in await response.text()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [(CHAT, "POST, OPTIONS"), ("/token", "POST, OPTIONS"), ("/v1/models", "GET, OPTIONS")],
)
async def test_allow_names_the_methods(api: Api, path: str, allowed: str) -> None:
    """405 and the answer to OPTIONS say what a path can do."""
    async with api.http.request("DELETE", api.url + path) as response:
        assert (response.status, response.headers["Allow"]) == (405, allowed)
        assert await response.json()
    async with api.http.options(api.url + path) as response:
        assert (response.status, response.headers["Allow"]) == (204, allowed)


async def test_no_redirect_repeats_the_host(api: Api) -> None:
    """A slash too many is 404; a redirect would send the client wherever `Host` said."""
    headers = {**api.auth, "Host": "elsewhere.example"}
    async with api.http.get(
        f"{api.url}/v1/models/", headers=headers, allow_redirects=False
    ) as response:
        assert response.status == 404
        assert "elsewhere" not in str(response.headers) + await response.text()
