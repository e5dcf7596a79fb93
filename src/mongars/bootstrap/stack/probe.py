"""A readiness probe: one HTTP request to a server on this machine."""

from __future__ import annotations

import asyncio

_ANSWER_S = 3.0
_MAX_BYTES = 1 << 20


async def http_answers(
    host: str, port: int, *, path: str, holds: bytes = b"", token: str | None = None
) -> bool:
    """Whether `GET path` at this host and port gets, within 3 seconds, status 200 and a body that contains `holds`.

    `holds` empty: any body. False on connection errors and timeouts. `token` is sent as a bearer token; None: without
    authorization.
    """
    name = f"[{host}]" if ":" in host else host
    header = "" if token is None else f"Authorization: Bearer {token}\r\n"
    try:
        async with asyncio.timeout(_ANSWER_S):
            answer = await _get(
                host, port, f"GET {path} HTTP/1.0\r\nHost: {name}:{port}\r\n{header}\r\n"
            )
    except (OSError, TimeoutError):
        return False
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    return status == [b"200"] and holds in body


async def _get(host: str, port: int, request: str) -> bytes:
    # With HTTP/1.0 the server closes the connection at the end of the response.
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request.encode())
        await writer.drain()
        answer = b""
        while len(answer) < _MAX_BYTES and (block := await reader.read(1 << 16)):
            answer += block
        return answer
    finally:
        writer.close()
