"""The slot table with real llama.cpp processes."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest
from slot_requests import BASE, CLOCK, V7, answer, ask, key, soon, states

from mongars.core.errors import (
    InferenceFailed,
)
from mongars.core.generation import Sampling
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.engines.slot_table import SlotTable
from support import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.core.generation import Origin


class Adapted(LlamaCppEngine):
    """A real engine whose origin names an adapter, so that one table can have two engines."""

    @property
    def origin(self) -> Origin:
        found = super().origin
        return replace(found, adapter_version=V7.version, adapter_digest=V7.digest)


def _child_processes() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.model
async def test_a_real_engine_killed_while_it_loads_disturbs_nothing(base_model: Path) -> None:
    """If an engine's process is killed during its preparation, the reason is raised and the base model answers."""
    others = _child_processes()  # such as the database of other tests
    config = LlamaCppConfig(
        model_path=base_model, model_name="smollm2", slots=2, context_tokens=512
    )
    table = SlotTable(max_waiting=8)
    table.add("general", LlamaCppEngine(config, clock=CLOCK))
    await table.start()
    base = _child_processes() - others

    async def kill() -> None:
        await eventually(lambda: len(_child_processes() - others - base) > 0, seconds=10)
        for pid in _child_processes() - others - base:
            os.kill(pid, signal.SIGKILL)

    request = replace(ask("Say hello"), sampling=Sampling(max_tokens=8, temperature=0))
    try:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(answer(table, request))
            group.create_task(kill())
            with pytest.raises(InferenceFailed):
                await table.prepare(key(V7), lambda: Adapted(config, clock=CLOCK))
        assert reading.result().text
        assert states(table) == {str(BASE): "active"}
        assert _child_processes() - others == base
        await table.prepare(key(V7), lambda: Adapted(config, clock=CLOCK))
        table.activate(key(V7))
        await table.retire(BASE, soon())
        assert (await answer(table, request)).adapter == V7.name
    finally:
        await table.aclose()
    assert not _child_processes() - others
