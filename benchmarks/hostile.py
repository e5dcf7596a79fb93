"""Measure floods of unauthenticated requests: memory before, during and after, and whether others are served.

`python -m benchmarks.hostile` starts an API process with its own home at `ulimit -n 1024`; with `--serve` it starts a
whole stack and floods the proxy of Ray Serve. With `--fairness` one user floods the API, with or without Ray behind
it, while another user sends requests.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.foundation import say
from benchmarks.hostile_fairness import fairness
from mongars.bootstrap.stack.ownership import owned_processes, stack_id
from mongars.core.clock import SystemClock, pause
from mongars.testing.ray_cluster import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

CLOCK = SystemClock()
BLOCK = 65_536
SETTLE_SECONDS = 3.0
DESCRIPTORS = 1024
SOCKETS = 1100
FLOOD_CONNECTIONS = 28
FLOOD_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server under attack: its port, its process, and a path that needs no key."""

    name: str
    port: int
    process: psutil.Process
    path: str

    @property
    def megabytes(self) -> float:
        """The resident memory of the server, in MB."""
        return self.process.memory_info().rss / 1e6

    async def seconds(self) -> float:
        """The seconds that a normal request takes; infinite if it is not answered."""
        began = CLOCK.monotonic()
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                head = f"GET {self.path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                writer.write(head.encode())
                line = await reader.readline()
                writer.close()
        except (OSError, TimeoutError):
            return float("inf")
        return CLOCK.monotonic() - began if b" 200 " in line else float("inf")


async def short_headers() -> AsyncIterator[bytes]:
    """60 MB of header fields of a few bytes each."""
    yield b"GET / HTTP/1.1\r\nHost: a\r\n"
    block = b"x: y\r\n" * (BLOCK // 6)
    for _ in range(60_000_000 // len(block)):
        yield block


async def trailers() -> AsyncIterator[bytes]:
    """60 MB of trailer fields of a few bytes each, after a body."""
    yield b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    block = b"x: y\r\n" * (BLOCK // 6)
    for _ in range(60_000_000 // len(block)):
        yield block


async def one_header() -> AsyncIterator[bytes]:
    """One header field of 100 MB."""
    yield b"GET / HTTP/1.1\r\nHost: a\r\nx: "
    for _ in range(100_000_000 // BLOCK):
        yield b"y" * BLOCK


async def send(target: Target, parts: Callable[[], AsyncIterator[bytes]]) -> bytes:
    """Send all parts, or until the server closes; returns the first line of its response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    answer = asyncio.create_task(reader.read(4096))  # noqa: TID251 - ends below
    with suppress(OSError):
        async for part in parts():
            writer.write(part)
            await writer.drain()
    try:
        async with asyncio.timeout(15):
            head = await answer
    except (OSError, TimeoutError):
        head = b""
    answer.cancel()
    writer.close()
    return head.split(b"\r\n", 1)[0]


@dataclass(slots=True)
class Watch:
    """The most memory used (MB) and the slowest normal request (seconds) while watching."""

    peak: float = 0.0
    slowest: float = 0.0

    async def look(self, target: Target) -> None:
        """Measure repeatedly until cancelled."""
        while True:
            self.peak = max(self.peak, target.megabytes)
            self.slowest = max(self.slowest, await target.seconds())
            await CLOCK.sleep(0.02)


async def bombs(target: Target) -> None:
    """Send each header flood on one connection and on eight, and print the results."""
    for attack in (short_headers, trailers, one_header):
        for connections in (1, 8):
            before, watch = target.megabytes, Watch()
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(watch.look(target))
                async with asyncio.TaskGroup() as attacks:
                    sent = [attacks.create_task(send(target, attack)) for _ in range(connections)]
                looking.cancel()
            await CLOCK.sleep(SETTLE_SECONDS)
            say(
                f"{target.name}: {attack.__name__} x{connections}: {before:.0f} MB before,"
                f" {watch.peak:.0f} at most, {target.megabytes:.0f} after; honest request"
                f" {watch.slowest * 1000:.0f} ms at most; answered { ({s.result() for s in sent}) }"
            )


async def idle_sockets(target: Target) -> None:
    """Open more sockets than the server may, and leave them unused."""
    before = target.megabytes
    writers = []
    for _ in range(SOCKETS):
        with suppress(OSError):
            writers.append((await asyncio.open_connection("127.0.0.1", target.port))[1])
    honest = await target.seconds()
    say(
        f"{target.name}: {len(writers)} idle sockets, {target.process.num_fds()} descriptors:"
        f" honest request {honest * 1000:.0f} ms; {before:.0f} MB before, {target.megabytes:.0f} now"
    )
    await CLOCK.sleep(20)
    say(f"{target.name}: 20 s later {target.process.num_fds()} descriptors")
    for writer in writers:
        writer.close()


async def login(target: Target, name: str, password: str, *, host: str = "127.0.0.1") -> int:
    """The status of one login."""
    body = f"grant_type=password&username={name}&password={password}"
    head = (
        "POST /token HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, local_addr=(host, 0))
    try:
        writer.write((head + body).encode())
        line = await reader.readline()
    finally:
        writer.close()
    return int(line.split(b" ")[1]) if line else 0


async def login_flood(target: Target, password: str) -> None:
    """Send wrong logins on 28 connections, and a right one every second from the same address."""
    attacks: dict[int, int] = {}
    until = CLOCK.monotonic() + FLOOD_SECONDS

    async def attack(number: int) -> None:
        count = 0
        while CLOCK.monotonic() < until:
            count += 1
            status = await login(target, f"nobody{number}x{count}", "wrong-password")
            attacks[status] = attacks.get(status, 0) + 1

    honest: list[int] = []
    cpu = sum(target.process.cpu_times()[:2])
    async with asyncio.TaskGroup() as group:
        for number in range(FLOOD_CONNECTIONS):
            group.create_task(attack(number))
        while CLOCK.monotonic() < until:
            await CLOCK.sleep(1)
            honest.append(await login(target, "admin", password))
    used = sum(target.process.cpu_times()[:2]) - cpu
    good = honest.count(200)
    say(
        f"{target.name}: login flood: {good} of {len(honest)} honest logins got in, statuses"
        f" {honest}; the flood got {attacks}; {used / FLOOD_SECONDS:.2f} cores;"
        f" {target.megabytes:.0f} MB"
    )


@dataclass(frozen=True, slots=True)
class Servers:
    """The running servers, the administrator's password (of the API alone) and their environment."""

    targets: list[Target]
    password: str
    environment: dict[str, str]


@contextmanager
def processes(*, serve: bool) -> Iterator[Servers]:
    """Start the servers, and stop them at the end."""
    names = ("MONGARS_PORT", "RAY_HTTP_PORT", "RAY_PORT", "RAY_DASHBOARD_PORT")
    ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        home = Path(folder) / "home"
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("MONGARS_", "RAY_"))},  # noqa: TID251
            **ports,
            "MONGARS_HOME": str(home),
            **({} if serve else {"USE_RAY_SERVE": "false"}),
        }
        command = f"ulimit -n {DESCRIPTORS}; exec {sys.executable} -m mongars"
        screen = Path(folder) / "screen.txt"
        with screen.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", f"{command} {'up' if serve else 'api'}"],
                env=environment,
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            word = "monGARS is ready" if serve else "api.started"
            for _ in range(600):
                if word in screen.read_text() or process.poll() is not None:
                    break
                pause(0.2)
            pause(0.5)  # the API writes that line just before it listens
            targets = list(_targets(process.pid, home, ports, serve=serve))
            yield Servers(targets, _password(screen), environment)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)


def _targets(pid: int, home: Path, ports: dict[str, str], *, serve: bool) -> Iterator[Target]:
    if not serve:
        yield Target("api", int(ports["MONGARS_PORT"]), psutil.Process(pid), "/healthz")
        return
    proxies = [
        process
        for process in owned_processes(stack_id(home))
        if "ProxyActor" in " ".join(process.cmdline())
    ]
    yield Target("serve proxy", int(ports["RAY_HTTP_PORT"]), proxies[0], "/-/healthz")


def _password(screen: Path) -> str:
    words = screen.read_text().split()
    return words[words.index("password") + 1] if "password" in words else ""


async def _main(options: argparse.Namespace) -> None:
    with processes(serve=options.serve) as servers:
        if options.fairness:
            port = int(servers.environment["MONGARS_PORT"])
            await fairness(port, servers.environment, tokens=options.tokens)
            return
        for target in servers.targets:
            say(f"{target.name}: {target.megabytes:.0f} MB after the start")
            await bombs(target)
            await idle_sockets(target)
            if not options.serve:
                await login_flood(target, servers.password)
            say(f"{target.name}: {target.megabytes:.0f} MB in the end")


def main() -> None:
    """Run the chosen measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="attack Ray Serve's proxy instead")
    parser.add_argument("--fairness", action="store_true", help="one user floods, another asks")
    parser.add_argument("--tokens", type=int, default=400, help="of each answer of the flood")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
