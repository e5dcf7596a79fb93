"""Credentials in a header or the session cookie, on requests and WebSocket handshakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from fastapi import APIRouter, Request, WebSocket
from starlette.requests import HTTPConnection

from mongars.api.dialect import RouteTable
from mongars.api.error_formats import OWN_ERRORS
from mongars.api.requests import principal_of
from mongars.api.session_cookie import SessionToken, session_token_of
from mongars.core.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

    from mongars.api.context import ApiContext

FOREIGN = "https://evil.example.org"
OWN = "own"


def toy_routes(context: ApiContext) -> RouteTable:
    router = APIRouter(prefix="/toy")

    @router.api_route("/account", methods=["GET", "POST"], include_in_schema=False)
    async def account(request: Request) -> str:
        return (await principal_of(request, context.authenticator)).username

    @router.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        principal = await principal_of(websocket, context.authenticator)
        await websocket.accept()
        await websocket.send_text(principal.username)
        await websocket.close()

    return RouteTable(router=router, prefix="/toy", errors=OWN_ERRORS)


@pytest.fixture
async def api(start_api: Callable[..., AbstractAsyncContextManager[Api]]) -> AsyncIterator[Api]:
    async with start_api(more=(toy_routes,)) as started:
        yield started


async def session_cookie(api: Api) -> dict[str, str]:
    """The `Cookie` header that a browser sends after a login as alice."""
    form = {"username": "alice", "password": "alice-password"}
    async with api.http.post(f"{api.url}/token", data=form) as response:
        token = (await response.json())["access_token"]
    return {"Cookie": f"theme=dark; mongars_session={token}"}


def origin_header(api: Api, origin: str | None) -> dict[str, str]:
    return {} if origin is None else {"Origin": api.url if origin == OWN else origin}


async def account(api: Api, method: str, headers: dict[str, str], query: str = "") -> object:
    """The account name that the toy route returns, or the status and detail of its error."""
    url = f"{api.url}/toy/account{query}"
    async with api.http.request(method, url, headers=headers) as response:
        body = await response.json()
        return body if response.status == 200 else (response.status, body["detail"])


async def socket_account(api: Api, headers: dict[str, str]) -> str:
    """The account name that the toy WebSocket sends.

    Raises `WSServerHandshakeError` if the handshake is refused.
    """
    async with api.http.ws_connect(f"{api.url}/toy/socket", headers=headers) as socket:
        return await socket.receive_str()


@pytest.mark.parametrize("origin", [None, OWN, FOREIGN])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_header_counts_whatever_the_origin(
    api: Api, method: str, origin: str | None
) -> None:
    """A key in the `Authorization` header is accepted from every origin, since browsers never add the header."""
    headers = api.auth | origin_header(api, origin)
    assert await account(api, method, headers) == "alice"
    assert await socket_account(api, headers) == "alice"


async def test_the_header_is_preferred_to_the_cookie(api: Api) -> None:
    """With header and cookie, the header decides the account; a wrong header gets 401 despite a valid cookie."""
    cookie = await session_cookie(api)
    other = {"Authorization": f"Bearer {api.other_key}"}
    assert await account(api, "POST", cookie | other) == "bob"
    status, _ = await account(api, "GET", cookie | {"Authorization": "Bearer nonsense"})
    assert status == 401


@pytest.mark.parametrize("origin", [None, OWN, FOREIGN])
async def test_a_cookie_reads_without_an_origin(api: Api, origin: str | None) -> None:
    """A GET request with the session cookie is accepted with any `Origin` header and without one."""
    headers = await session_cookie(api) | origin_header(api, origin)
    assert await account(api, "GET", headers) == "alice"


async def test_a_cookie_changes_things_from_the_servers_own_page(api: Api) -> None:
    """A POST request or WebSocket with the session cookie is accepted if `Origin` is the server's own."""
    headers = await session_cookie(api) | origin_header(api, OWN)
    assert await account(api, "POST", headers) == "alice"
    assert await socket_account(api, headers) == "alice"


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (None, "The Origin header is missing."),
        (FOREIGN, f"The Origin header is {FOREIGN!r}."),
        ("null", "The Origin header is 'null'."),
        ("http://127.0.0.1:1", "The Origin header is 'http://127.0.0.1:1'."),
        ("", "The Origin header is ''."),
    ],
)
async def test_a_cookie_from_another_page_is_refused(
    api: Api, origin: str | None, text: str
) -> None:
    """POST and WebSocket with the session cookie and a foreign or missing `Origin` get 403 that names the fault."""
    headers = await session_cookie(api) | origin_header(api, origin)
    status, detail = await account(api, "POST", headers)
    assert (status, detail.startswith(text)) == (403, True)
    assert "A POST request with the cookie mongars_session must name this server's own" in detail
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await socket_account(api, headers)
    assert refused.value.status == 403


async def test_a_proxy_may_end_tls(api: Api) -> None:
    """Behind a proxy that ends TLS, an `https` origin is accepted if its host is that of the `Host` header."""
    host = {"Host": "chat.example.org"}
    cookie = await session_cookie(api) | host
    assert await account(api, "POST", cookie | {"Origin": "https://chat.example.org"}) == "alice"
    status, _ = await account(api, "POST", cookie | {"Origin": "https://example.org"})
    assert status == 403


@pytest.mark.parametrize("value", ["key", "nonsense", ""])
async def test_a_cookie_holds_a_login_token_only(api: Api, value: str) -> None:
    """A session cookie that holds an API key or nonsense gets 401 that asks for a new login."""
    cookie = {"Cookie": f"mongars_session={api.key if value == 'key' else value}"}
    status, detail = await account(api, "GET", cookie)
    assert status == 401
    assert ("Log in again" if value else "The Authorization header is missing") in detail


@pytest.mark.parametrize("name", ["mongars_session", "token", "key", "api_key", "authorization"])
async def test_a_credential_in_the_url_is_not_read(api: Api, name: str) -> None:
    """A key in the URL's query is ignored, on requests and WebSockets, since URLs end up in logs."""
    status, detail = await account(api, "GET", {}, f"?{name}={api.key}")
    assert (status, "The Authorization header is missing" in detail) == (401, True)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with api.http.ws_connect(f"{api.url}/toy/socket?{name}={api.key}"):
            pass
    assert refused.value.status == 401


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "accepted"),
    [
        ("https", "chat.example.org", "https://chat.example.org", True),
        ("https", "chat.example.org", "http://chat.example.org", False),
        ("wss", "chat.example.org:8443", "https://chat.example.org:8443", True),
        ("wss", "chat.example.org:8443", "https://chat.example.org", False),
        ("https", "Chat.Example.org:443", "https://chat.example.org", True),
        ("http", "chat.example.org:80", "http://chat.example.org", True),
        ("http", "", "http://", False),
    ],
)
def test_the_own_origin_has_scheme_host_and_port(
    scheme: str, host: str, origin: str, *, accepted: bool
) -> None:
    """`Origin` must match the server's scheme, host and port; letter case and the default port do not matter."""
    connection = HTTPConnection(
        {
            "type": "websocket" if scheme == "wss" else "http",
            "method": "POST",
            "scheme": scheme,
            "headers": [
                (b"host", host.encode()),
                (b"origin", origin.encode()),
                (b"cookie", b"mongars_session=token"),
            ],
        }
    )
    if accepted:
        assert session_token_of(connection) == SessionToken("token")
        return
    with pytest.raises(Forbidden, match="The Origin header is"):
        session_token_of(connection)
