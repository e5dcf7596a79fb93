"""The supervisor of the llama.cpp child, with a child that is none."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mongars.core.errors import NotReady
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.process import LlamaCppProcess
from mongars.engines.llama_cpp.supervisor import CHECK_PERIOD, UNHEARD_CHECKS, LlamaCppSupervisor
from mongars.testing.clock import ManualClock

CONFIG = LlamaCppConfig(model_path=Path("none.gguf"), model_name="none")


class Child:
    """Lives until it is killed; nobody listens at its socket."""

    api_key = "key"
    socket_path = Path("/nonexistent/engine.sock")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.killed = 0
        self.dead = asyncio.Event()
        self.leaving = asyncio.Event()
        self.leaving.set()

    def last_words(self) -> str:
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
    """Makes children and remembers them."""

    async def spawn(self, _: Any) -> Any:
        self.append(Child(len(self) + 1))
        return self[-1]


async def test_refusal_while_a_dead_child_is_cleared_away_does_not_say_ready() -> None:
    """It says that the engine restarts, from the moment its child is gone."""
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
    """The checks count anew with each child."""
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


async def test_start_that_is_broken_off_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while the operating system makes the process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await LlamaCppProcess.spawn(CONFIG)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 (nothing waits for it)
