"""Requests to a slot table, and slot tables for tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.generation import BASE_ADAPTER, GenerationRequest, Message
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.slot_table import SlotKey, SlotTable
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from mongars.testing.adapters import FakeAdapter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


CLOCK = SystemClock()
BASE = SlotKey(role="general")
V7, V8 = FakeAdapter(version="v7"), FakeAdapter(version="v8")
SLOW = FakePlan(token_delay=0.02)


def key(adapter: FakeAdapter) -> SlotKey:
    return SlotKey(role="general", digest=adapter.digest)


def ask(text: str = "good day", *, adapter: str | None = None) -> GenerationRequest:
    messages = (Message(role="user", content=text),)
    return GenerationRequest(messages=messages, request_id="r", adapter=adapter)


def soon(seconds: float = 5.0) -> Deadline:
    return Deadline.after(CLOCK, seconds)


@dataclass
class Reply:
    text: str
    adapter: str
    """The adapter's name, from the engine's origin."""


async def answer(table: SlotTable, request: GenerationRequest | None = None) -> Reply:
    request = request or ask()
    async with (
        table.lease(request) as queued,
        queued.admit(request, soon(30)) as admitted,
        admitted.stream() as blocks,
    ):
        origin = queued.engine.origin
        raw = b"".join([block async for block in blocks])
    events = EventSplitter().feed(raw)
    text = "".join(read_chunk(event).text for event in events if not event.is_done)
    digest = origin.adapter_digest
    named = BASE_ADAPTER if digest is None else f"{origin.adapter_version}@{digest[:12]}"
    return Reply(text, named)


@asynccontextmanager
async def running(plan: FakePlan | None = None) -> AsyncIterator[SlotTable]:
    table = SlotTable(max_waiting=64)
    table.add("general", FakeEngine(plan or FakePlan(), clock=CLOCK))
    await table.start()
    try:
        yield table
    finally:
        await table.aclose()


def states(table: SlotTable) -> dict[str, str]:
    return {str(report.key): report.state for report in table.reports}
