"""`deploy/docker/health.py`, run as in a container, against real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from validation import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = ROOT / "deploy" / "docker" / "health.py"
TOKEN = "t" * 32


@contextmanager
def serving(answer: Callable[[str, str | None], tuple[int, bytes]]) -> Iterator[str]:
    """The URL of a server on loopback; `answer` maps the path and Authorization header to the status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def health(*arguments: str) -> int:
    environment = {"PATH": os.defpath, "RAY_AUTH_TOKEN": TOKEN}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode  # noqa: S603 (a tool of ours, fixed arguments)


def dashboard(_: str, authorization: str | None) -> tuple[int, bytes]:
    return (200 if authorization == f"Bearer {TOKEN}" else 401), b"{}"


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)], ids=["ready", "not ready"])
def test_one_address_counts_by_its_status(status: int, code: int) -> None:
    """With one address, the check succeeds if and only if the response has status 200."""
    with serving(lambda *_: (status, b"{}")) as url:
        assert health(f"{url}/readyz") == code


def test_a_refused_connection_is_unhealthy() -> None:
    """A server that refuses the connection is unhealthy."""
    assert health(f"{closed_port()}/readyz") == 1


def test_a_head_without_an_application_is_ready_to_get_one() -> None:
    """A Ray head without an application is healthy, since the deploying service waits for that before it deploys."""
    with serving(dashboard) as url:
        assert health(url, closed_port()) == 0


@pytest.mark.parametrize(("status", "code"), [(200, 0), (409, 1)], ids=["ready", "not ready"])
def test_a_head_with_the_application_is_as_ready_as_its_replica(status: int, code: int) -> None:
    """A Ray head with an application is healthy if and only if the replica is ready."""

    def serve(path: str, _: str | None) -> tuple[int, bytes]:
        return (200, b'{"/": "mongars"}') if path == "/-/routes" else (status, b"{}")

    with serving(dashboard) as url, serving(serve) as serve_url:
        assert health(url, serve_url) == code


def test_a_head_that_refuses_our_token_is_unhealthy() -> None:
    """A Ray head that refuses the token is unhealthy, since no application could be deployed to it."""
    with serving(lambda *_: (403, b"")) as url:
        assert health(url, closed_port()) == 1


def test_wrong_arguments_are_reported() -> None:
    """Wrong arguments end the check with status 2; an unhealthy server ends it with 1."""
    assert health() == 2
