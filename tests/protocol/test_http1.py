"""HTTP/1.1 connections of the API and of replicas: limits before authentication, and when connections are closed."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI, Request

from mongars.core.clock import SystemClock
from mongars.protocol.http1.connections import Connections
from mongars.protocol.http1.limits import HttpLimits
from mongars.protocol.http1.refused_request import openai_error
from mongars.protocol.http1.server import guarded, path_of
from mongars.testing.loopback_server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mongars.core.errors import MongarsError
    from mongars.protocol.http1.refused_request import ErrorBody

CLOCK = SystemClock()
HEAD = b"GET /seen HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /seen HTTP/1.1\r\nHost: a\r\n"


@dataclass(slots=True)
class Server:
    """A running server and the counts that it reported."""

    port: int
    connections: Connections
    reports: list[Mapping[str, int]] = field(default_factory=list)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, *parts: bytes) -> bytes:
        """All bytes that the server sends in answer to `parts` until it closes; empty if it resets the connection."""
        reader, writer = await self.open()
        answer = b""
        try:
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                sending = group.create_task(_send(writer, *parts))
                with suppress(ConnectionError):
                    answer = await reader.read()
                sending.cancel()
        finally:
            writer.close()
        return answer


async def _send(writer: asyncio.StreamWriter, *parts: bytes) -> None:
    with suppress(ConnectionError):  # the server closed the connection
        for part in parts:
            writer.write(part)
            await writer.drain()


def _app() -> FastAPI:
    app = FastAPI(redirect_slashes=False)

    @app.api_route("/seen", methods=["GET", "POST"])
    async def seen(request: Request) -> dict[str, Any]:
        body = await request.body()
        return {"headers": dict(request.headers), "body": body.decode()[:9]}

    @app.post("/early")
    async def early() -> dict[str, str]:
        return {"early": "response"}

    @app.get("/slow")
    async def slow() -> dict[str, str]:
        await CLOCK.sleep(1)
        return {"slow": "response"}

    return app


@asynccontextmanager
async def start(error_body: ErrorBody = openai_error, **limits: Any) -> AsyncIterator[Server]:
    """A real uvicorn with the guarded HTTP protocol."""
    connections = Connections(HttpLimits(**limits), lambda refused: None, error_body=error_body)
    server = Server(0, connections)
    async with serving(_app(), http=guarded(server.connections)) as url:
        server.port = int(url.rpartition(":")[2])
        yield server


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def body(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def test_many_short_headers_are_refused_without_being_kept() -> None:
    """After a hundred header fields a request is refused with 431 and its connection closed."""
    async with start() as server:
        block = b"x: y\r\n" * 10_000
        answer = await server.ask(HEAD, *[block] * 100)
    assert status(answer) == 431
    assert b"connection: close" in answer
    assert "header fields" in body(answer)["error"]["message"]


async def test_one_huge_header_is_refused_while_it_arrives() -> None:
    """An endless header field is refused with 431 while it arrives."""
    async with start() as server:
        answer = await server.ask(HEAD + b"x: ", *[b"y" * 65_536] * 200)
    assert status(answer) == 431


async def test_one_huge_header_name_and_line_are_refused_too() -> None:
    """An endless header name, request line or run of empty lines is refused."""
    async with start() as server:
        assert status(await server.ask(HEAD, *[b"y" * 65_536] * 50)) == 431
        assert status(await server.ask(b"GET /", *[b"y" * 65_536] * 50)) == 414
        assert status(await server.ask(*[b"\r\n" * 30_000] * 50)) in {400, 414}


async def test_large_headers_within_one_packet_are_refused() -> None:
    """The limit of 4096 bytes for the head also applies to a head that arrives in one packet."""
    async with start(head_bytes=4096) as server:
        assert status(await server.ask(HEAD + b"x: " + b"y" * 5000 + b"\r\n\r\n")) == 431
        small = HEAD + b"connection: close\r\nx: " + b"y" * 3000 + b"\r\n\r\n"
        assert status(await server.ask(small)) == 200


async def test_trailer_fields_are_not_headers() -> None:
    """Fields in the trailer, after the body, are not headers and so cannot authenticate a request."""
    chunked = b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nhi\r\n0\r\n"
    async with start() as server:
        answer = await server.ask(POST + chunked + b"authorization: Bearer x\r\n\r\n")
    assert status(answer) == 200
    assert "authorization" not in body(answer)["headers"]
    assert body(answer)["body"] == "hi"


@pytest.mark.parametrize(
    "flood",
    [b"x: y\r\n" * 10_000, b"y" * 60_000],
    ids=["many", "one"],
)
async def test_trailers_are_bounded(flood: bytes) -> None:
    """Too many or too long trailer fields are refused with 431."""
    async with start() as server:
        head = POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: "
        answer = await server.ask(head, *[flood] * 100)
    assert status(answer) == 431
    assert "trailer" in body(answer)["error"]["message"]


async def test_a_chunk_extension_without_end_is_refused() -> None:
    """An endless chunk extension is refused with 431."""
    async with start() as server:
        head = POST + b"transfer-encoding: chunked\r\n\r\n2;"
        assert status(await server.ask(head, *[b"y" * 60_000] * 100)) == 431


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET /seen HTTP/1.1\r\n", 400),
        (b"GET /seen HTTP/1.0\r\n", 200),
        (b"GET /seen HTTP/1.1\r\nhost: a\r\nHost: b\r\n", 400),
        (b"GET /seen HTTP/1.1\r\nHost: a/b\r\n", 400),
        (b"GET /seen HTTP/1.1\r\nHost: user@a\r\n", 400),
        (b"GET /seen HTTP/1.1\r\nHost: a b\r\n", 400),
        (b"GET /seen HTTP/1.1\r\nHost:\r\n", 400),
        (b"GET /seen HTTP/1.1\r\nHost: [::1]:8080\r\n", 200),
        (b"GET /seen HTTP/1.1\r\nHost: ray-head_1.svc:8000\r\n", 200),
    ],
)
async def test_host(head: bytes, expected: int) -> None:
    """A request without exactly one valid `Host` is refused with 400; in HTTP/1.0 it may be missing."""
    async with start() as server:
        assert status(await server.ask(head + b"connection: close\r\n\r\n")) == expected


async def test_allowed_hosts() -> None:
    """If the operator lists the allowed hosts, a request for another host is refused with 400."""
    async with start(hosts=frozenset({"chat.example", "[::1]"})) as server:
        for host, expected in ((b"Chat.Example:80", 200), (b"[::1]", 200), (b"evil.example", 400)):
            request = b"GET /seen HTTP/1.1\r\nconnection: close\r\nHost: " + host + b"\r\n\r\n"
            assert status(await server.ask(request)) == expected
        # A host before the path counts more than the header (RFC 9112, section 3.2.2).
        request = b"GET http://evil.example/seen HTTP/1.1\r\nHost: chat.example\r\n\r\n"
        assert status(await server.ask(request)) == 400


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_an_upgrade_may_be_ignored(protocol: bytes) -> None:
    """A POST that offers to upgrade to another protocol is answered over HTTP/1.1, with its whole body read."""
    upgrade = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: " + protocol + b"\r\n"
    async with start() as server:
        head = POST + upgrade + b"content-length: 5\r\n\r\n"
        for parts in ((head + b"hello",), (head, b"he", b"llo")):
            answer = await server.ask(*parts)
            assert status(answer) == 200
            assert body(answer)["body"] == "hello"
            assert "upgrade" not in body(answer)["headers"]


async def test_connect_is_refused() -> None:
    """`CONNECT` is refused with 400, as the server is no proxy."""
    async with start() as server:
        assert status(await server.ask(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")) == 400


@pytest.mark.parametrize("path", [b"/early", b"/nowhere"])
@pytest.mark.parametrize("close", [b"", b"connection: close\r\n"], ids=["keep", "close"])
async def test_an_early_response_arrives_whole(path: bytes, close: bytes) -> None:
    """A client that is still sending 20 MB reads the whole early response, not a reset."""
    async with start() as server:
        head = b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + close
        head += b"content-length: 20000000\r\n\r\n"
        answer = await server.ask(head, *[b"x" * 100_000] * 200)
    assert status(answer) in {200, 404}
    assert body(answer)


async def test_reading_on_is_bounded() -> None:
    """A client that goes on sending after the response is disconnected after `linger_bytes`."""
    async with start(linger_bytes=1_000_000) as server:
        reader, writer = await server.open()
        writer.write(b"POST /early HTTP/1.1\r\nHost: a\r\ncontent-length: 99999999\r\n\r\n")
        await _send(writer, *[b"x" * 100_000] * 200)
        assert writer.transport.is_closing()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()


async def test_a_small_body_after_an_early_response_keeps_the_connection() -> None:
    """After an early response to a request with a small body, the connection can be used again."""
    async with start() as server:
        reader, writer = await server.open()
        writer.write(b"POST /early HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\n")
        await reader.readuntil(b"}")
        writer.write(b"hello" + HEAD + b"connection: close\r\n\r\n")
        assert status(await reader.read()) == 200
        writer.close()


async def test_a_large_body_keeps_the_connection_when_it_was_read() -> None:
    """After a request with a large body that was read, the connection can be used again."""
    async with start() as server:
        reader, writer = await server.open()
        writer.write(POST + b"content-length: 300000\r\n\r\n" + b"x" * 300_000)
        await reader.readuntil(b'x"}')
        writer.write(HEAD + b"connection: close\r\n\r\n")
        assert status(await reader.read()) == 200
        writer.close()


async def test_an_unfinished_head_is_timed_out() -> None:
    """An incomplete head gets 408 after `head_seconds`; a connection without a request is closed."""
    async with start(head_seconds=0.3) as server:
        assert status(await server.ask(HEAD)) == 408
        assert await server.ask() == b""


async def test_idle_connections_make_way_for_new_ones() -> None:
    """If idle connections take every place, the oldest is closed and a new client is answered."""
    async with start(connections=20) as server:
        idle = [await server.open() for _ in range(60)]
        answer = await server.ask(HEAD + b"connection: close\r\n\r\n")
        assert status(answer) == 200
        assert await idle[0][0].read() == b""
        for _, writer in idle:
            writer.close()


async def test_unfinished_requests_make_way_for_new_ones() -> None:
    """If requests with incomplete bodies take every place, a new client is answered all the same."""
    async with start(connections=10) as server:
        stuck = [await server.open() for _ in range(10)]
        for _, writer in stuck:
            writer.write(POST + b"content-length: 50\r\n\r\nx")
        await CLOCK.sleep(0.2)
        assert status(await server.ask(HEAD + b"connection: close\r\n\r\n")) == 200
        reader, writer = stuck[-1]
        writer.write(b"y" * 49)
        assert b"200" in await reader.readline()
        for _, writer in stuck:
            writer.close()


async def test_a_full_server_refuses_at_once() -> None:
    """If running requests take every place, a new client gets 503 with `Retry-After` at once."""
    async with start(connections=5) as server:
        busy = [await server.open() for _ in range(5)]
        for _, writer in busy:
            writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await CLOCK.sleep(0.2)
        answer = await server.ask(HEAD + b"\r\n")
        assert status(answer) == 503
        assert b"retry-after" in answer
        for reader, writer in busy:
            assert b"slow" in await reader.readuntil(b"}")
            writer.close()


async def test_pipelined_requests_are_answered_in_order_and_bounded() -> None:
    """A few pipelined requests are answered in order; thousands end the connection."""
    async with start() as server:
        few = HEAD + b"\r\n" + b"GET /slow HTTP/1.1\r\nHost: a\r\nconnection: close\r\n\r\n"
        answer = await server.ask(few)
        assert answer.index(b"headers") < answer.index(b"slow")
        assert b"200" not in await server.ask((HEAD + b"\r\n") * 5000)


async def test_bytes_that_are_no_request() -> None:
    """Bytes that are no request get 400; behind a running request they get no response."""
    async with start() as server:
        for garbage in (b"\x16\x03\x01 hello", b"GET http://[ HTTP/1.1\r\nHost: a"):
            assert status(await server.ask(garbage + b"\r\n\r\n")) == 400
        behind = await server.ask(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n\x16\x03\x01\r\n\r\n")
        assert b"400" not in behind


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "expected", "path"),
    [
        (b"FOO /api/chat?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", 501, "/api/chat"),
        (b"get http://a/v1/models HTTP/1.1\r\nHost: a\r\n\r\n", 501, "/v1/models"),
        (b"FOO and more\r\n\r\n", 400, ""),
        (b"POST /api/chat HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "/api/chat"),
        (b"POST /seen HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "/seen"),
        (b"POST /seen HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"zz\r\n", 400, "/seen"),
        (b"GET /seen HTTP/9.9\r\nHost: a\r\n\r\n", 400, "/seen"),
        (b"GET /seen HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 200 + b"\r\n", 431, "/seen"),
    ],
)
async def test_a_refusal_has_the_format_of_its_path(
    request_: bytes, expected: int, path: str
) -> None:
    """The body of a refusal is made for the path, where the request line is known; an unknown method is 501."""

    def named(path: str, error: MongarsError) -> object:
        return {"path": path, "says": str(error)}

    async with start(error_body=named) as server:
        answer = await server.ask(request_)
        assert status(answer) == expected
        assert body(answer)["path"] == path
        assert body(answer)["says"]
        assert b"retry-after" not in answer


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([b"G", b"FOO /v1/models HTTP/1.1\r\n\r\n"], id="method-in-two-parts"),
        pytest.param(
            [
                b"POST /early HTTP/1.1\r\nHost: a\r\ncontent-length: 26\r\n\r\n",
                b"GET /v1/models HTTP/1.1\r\n\nFOO /seen HTTP/1.1\r\n\r\n",
            ],
            id="behind-a-body",
        ),
    ],
)
async def test_an_unknown_method_is_named_only_where_it_is_known(parts: list[bytes]) -> None:
    """If bytes of the same or another request precede an unknown method, the refusal is 400 and names none."""

    def named(path: str, error: MongarsError) -> object:
        return {"path": path, "says": str(error)}

    async with start(error_body=named) as server:
        reader, writer = await server.open()
        writer.write(parts[0])
        if len(parts[0]) > 1:
            assert b"early" in await reader.readuntil(b"}")
        else:
            await CLOCK.sleep(0.1)  # so that the parts arrive apart
        writer.write(parts[1])
        answer = await reader.read()
        writer.close()
    assert status(answer) == 400
    assert body(answer) == {"path": "", "says": "This is not a valid HTTP request."}


async def test_an_unknown_method_behind_another_request_is_no_501() -> None:
    """An unknown method that arrives together with an earlier request is counted as 400."""
    async with start() as server:
        await server.ask(HEAD + b"\r\nFOO /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.connections._refused == {"400 before the request was read": 1}


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"", ""),
        (b"/api/chat?next=http://b/v1", "/api/chat"),
        (b"http://a:80/v1/models?x", "/v1/models"),
        (b"http://a", "/"),
        (b"*", "*"),
    ],
)
def test_the_path_of_a_target(target: bytes, path: str) -> None:
    """The path of a request target has no host and no query."""
    assert path_of(target) == path
