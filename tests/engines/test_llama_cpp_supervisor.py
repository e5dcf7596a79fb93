"""The supervisor of the llama.cpp child process, with fake child processes."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import InferenceFailed, NotReady
from mongars.core.observe import Event, Note, Observer
from mongars.engines import log_events
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.process import LlamaCppProcess
from mongars.engines.llama_cpp.supervisor import CHECK_PERIOD, UNHEARD_CHECKS, LlamaCppSupervisor
from mongars.testing.manual_clock import ManualClock
from support import eventually

CONFIG = LlamaCppConfig(model_path=Path("none.gguf"), model_name="none")


class Child:
    """A fake child process that runs until it is killed; its socket does not exist."""

    api_key = "key"
    socket_path = Path("/nonexistent/engine.sock")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.killed = 0
        self.dead = asyncio.Event()
        self.leaving = asyncio.Event()
        self.leaving.set()

    def last_error(self) -> str:
        return "last words"

    async def wait(self) -> int:
        await self.dead.wait()
        return -9

    def kill(self) -> None:
        self.killed += 1
        self.dead.set()

    async def aclose(self) -> None:
        self.kill()
        await self.leaving.wait()


class Nursery(list[Child]):
    """Makes fake child processes, and is the list of them."""

    async def spawn(self, _: Any) -> Any:
        self.append(Child(len(self) + 1))
        return self[-1]


async def test_refusal_while_a_dead_child_is_cleared_away_does_not_say_ready() -> None:
    """While a dead child process is cleaned up, requests are refused as `NotReady` with "restarting"."""
    clock, children = ManualClock(), Nursery()
    supervisor = LlamaCppSupervisor(CONFIG, clock=clock, spawn=children.spawn)
    await supervisor.start()
    children[0].leaving.clear()
    children[0].dead.set()
    await clock.advance(0)
    with pytest.raises(NotReady, match="restarting"):
        _ = supervisor.session
    children[0].leaving.set()
    await clock.advance(0)
    assert supervisor.status.state == "ready"
    assert supervisor.status.restarts == 1
    await supervisor.aclose()
    assert supervisor.status.state == "stopped"


async def test_silence_of_a_dead_child_is_not_held_against_the_next() -> None:
    """Failed health checks of a dead child process do not count for the next one."""
    clock, children = ManualClock(), Nursery()
    supervisor = LlamaCppSupervisor(CONFIG, clock=clock, spawn=children.spawn)
    await supervisor.start()
    for _ in range(UNHEARD_CHECKS - 1):
        await clock.advance(CHECK_PERIOD)
    assert children[0].killed == 0
    children[0].dead.set()
    await clock.advance(0)
    assert len(children) == 2
    for _ in range(UNHEARD_CHECKS - 1):
        await clock.advance(CHECK_PERIOD)
        assert children[1].killed == 0
    await clock.advance(CHECK_PERIOD)
    assert children[1].killed > 0
    await supervisor.aclose()


class FailingAtKills(Observer):
    """An observer that raises `RuntimeError` for the event that a hanging child is killed."""

    def observe(self, event: Event) -> None:
        if isinstance(event, Note) and event.log is log_events.ENGINE_STUCK:
            message = "the disk of the log is full"
            raise RuntimeError(message)


async def test_closing_after_failed_health_checks_ends_the_restarts_too() -> None:
    """If the health checks have failed with an error, closing raises it, and the pending restart does not happen."""
    clock, children = ManualClock(), Nursery()
    no_memory = False

    async def spawn(config: Any) -> Any:
        if no_memory:
            raise InferenceFailed
        return await children.spawn(config)

    supervisor = LlamaCppSupervisor(CONFIG, clock=clock, observer=FailingAtKills(), spawn=spawn)
    await supervisor.start()
    for _ in range(UNHEARD_CHECKS):
        await clock.advance(CHECK_PERIOD)
    no_memory = True
    children[0].dead.set()
    await clock.advance(0)
    assert supervisor.status.state == "restarting"
    no_memory = False
    with pytest.raises(RuntimeError, match="disk of the log"):
        await supervisor.aclose()
    await clock.advance(10)
    assert (len(children), supervisor.status.state) == (1, "stopped")


class Generating(Child):
    """A fake child process that closes the connections of health checks; it sends a token when `next_token` is set."""

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__(pid)
        self.socket_path = folder / "engine.sock"
        self.next_token = asyncio.Event()
        self.health_checks = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /health"):
            self.health_checks += 1
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not self.dead.is_set():
                await self.next_token.wait()
                self.next_token.clear()
                writer.write(b"5\r\ntoken\r\n")
        writer.close()


async def test_child_that_sends_tokens_is_not_killed_for_unanswered_health_checks(
    tmp_path: Path,
) -> None:
    """A child process that sends tokens is not killed for failed health checks; without tokens it is replaced."""
    clock, child = ManualClock(), Generating(1, tmp_path)

    async def spawn(_: Any) -> Any:
        return child

    async def check() -> None:
        before = child.health_checks
        await clock.advance(CHECK_PERIOD)
        await eventually(lambda: child.health_checks > before)
        await SystemClock().sleep(0.02)  # until the supervisor has noticed the closed connection

    server = await asyncio.start_unix_server(child.serve, child.socket_path)
    supervisor = LlamaCppSupervisor(CONFIG, clock=clock, spawn=spawn)
    await supervisor.start()
    try:
        async with server, supervisor.post("/v1/chat/completions", {}) as response:
            for _ in range(3 * UNHEARD_CHECKS):
                child.next_token.set()
                with supervisor.waiting(response):
                    assert await response.content.readany() == b"token"
                await check()
                assert child.killed == 0
            for _ in range(UNHEARD_CHECKS):
                assert child.killed == 0
                await check()
            await eventually(lambda: child.killed > 0)
    finally:
        child.next_token.set()
        await supervisor.aclose()


async def test_start_that_is_broken_off_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the start is cancelled while the process is created, no temporary folder is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await LlamaCppProcess.spawn(CONFIG)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 (nothing else runs on the event loop)
