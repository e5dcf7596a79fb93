"""The real API process against hostile clients without a key."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from mongars.core.clock import pause
from mongars.testing.ray_cluster import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
DESCRIPTORS = 256
POST = b"POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 8000000\r\n"


class Process:
    """`mongars api`, limited to 256 open files."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.process = process
        self.log = log

    @property
    def megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, head: bytes, block: bytes = b"", times: int = 0) -> bytes:
        """The complete response to a client that sends `head`, then `block` so many `times` while it reads."""
        with self.open() as client:
            client.sendall(head)
            sending = threading.Thread(target=_send, args=(client, block, times))
            sending.start()
            answer = b""
            while data := client.recv(65_536):
                answer += data
            sending.join(timeout=20)
        return answer


def _send(client: socket.socket, block: bytes, times: int) -> None:
    with suppress(OSError):
        for _ in range(times):
            client.sendall(block)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    home = tmp_path_factory.mktemp("hostile")
    (port,) = free_ports(1)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MONGARS_", "RAY_"))}  # noqa: TID251
    variables = {"MONGARS_HOME": str(home), "MONGARS_PORT": str(port), "USE_RAY_SERVE": "false"}
    log = home / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (our own command)
            ["/bin/sh", "-c", f"ulimit -n {DESCRIPTORS}; exec {sys.executable} -m mongars api"],
            env={**kept, **variables},
            cwd=home,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    started = Process(port, process, log)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            with suppress(OSError):
                started.open().close()
                break
            pause(0.1)
        yield started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


@pytest.mark.parametrize(
    ("path", "status"),
    [(b"/token", 413), (b"/v1/chat/completions", 401), (b"/nowhere", 404), (b"/healthz", 405)],
)
def test_an_early_refusal_arrives_whole(api: Process, path: bytes, status: int) -> None:
    """A client that sends a refused body of 8 MB reads the complete refusal, not a reset connection."""
    for _ in range(3):
        answer = api.ask(POST % path + b"\r\n", b"x" * 100_000, 80)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert body.endswith(b"}")


def test_header_floods_cost_no_memory(api: Process) -> None:
    """Floods of 60 MB to 100 MB of headers or trailers are refused, and raise memory by less than 30 MB."""
    before = api.megabytes
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    short = b"x: y\r\n" * 10_000
    assert b" 431 " in api.ask(b"GET / HTTP/1.1\r\nHost: a\r\n", short, 1000)
    assert b" 431 " in api.ask(b"GET / HTTP/1.1\r\nHost: a\r\nx: ", b"y" * 100_000, 1000)
    assert b"HTTP/1.1 4" in api.ask(chunked, short, 1000)
    assert api.megabytes < before + 30
    assert api.megabytes < 250


def test_idle_connections_do_not_take_the_service_down(api: Process) -> None:
    """With more idle connections than the process may open files, other requests are still answered."""
    idle = []
    for _ in range(DESCRIPTORS + 50):
        with suppress(OSError):
            idle.append(api.open())
    try:
        for _ in range(5):
            head = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            assert b" 200 " in api.ask(head)
    finally:
        for client in idle:
            client.close()


def test_garbage_does_not_fill_the_log(api: Process) -> None:
    """Malformed requests do not each write to the log; 300 of them add less than 2,000 bytes."""
    size = api.log.stat().st_size
    for request in (
        b"\x16\x03\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        for _ in range(100):
            with suppress(OSError):
                api.ask(request)
    assert api.log.stat().st_size < size + 2000
    assert "http.descriptors" in api.log.read_text()
