"""One entry of the slot table: an engine, its queue, its state and its references."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.generation import BASE_ADAPTER, Origin, TaskRole
from mongars.engines.slot_states import SlotEvent, SlotState, advance

if TYPE_CHECKING:
    from mongars.engines.engine import EngineStatus
    from mongars.engines.queued_engine import QueuedEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotKey:
    """What an entry serves: a role, with the adapter of that digest, or without any (None)."""

    role: TaskRole
    digest: str | None = None

    def __str__(self) -> str:
        """For messages."""
        return f"{self.role}/{BASE_ADAPTER if self.digest is None else self.digest[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """An entry as it is now."""

    key: SlotKey
    origin: Origin
    """As the engine reports it."""
    state: SlotState
    references: int
    """Requests that it was given and that have not ended."""
    engine: EngineStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLoad:
    """How busy the engines are."""

    slots: int
    """Of the active entries."""
    active: int
    """Requests that hold a slot, over all entries."""
    waiting: int
    """Requests that wait for one, over all entries."""


class SlotEntry:
    """One engine of the table."""

    def __init__(self, role: TaskRole, queued: QueuedEngine, *, state: SlotState) -> None:
        self.role = role
        self.queued = queued
        self.state = state
        self.references = 0
        self.unused = asyncio.Event()
        """Set while there is no reference."""
        self.unused.set()
        self.origin = queued.engine.origin
        """As the engine reported it when it was added or started; its keys and names are stable."""

    @property
    def key(self) -> SlotKey:
        """What it serves."""
        return SlotKey(role=self.role, digest=self.origin.adapter_digest)

    def check(self, event: SlotEvent) -> SlotState:
        """The state after an event. Raises `IllegalTransition`."""
        return advance(self.state, event, entry=str(self.key))

    def hold(self) -> None:
        """Count one reference more."""
        self.references += 1
        self.unused.clear()

    def release(self) -> None:
        """Count one reference less."""
        self.references -= 1
        if not self.references:
            self.unused.set()

    @property
    def serving(self) -> bool:
        """Whether further requests can get it."""
        return self.state in {"prepared", "active"}

    def report(self) -> SlotReport:
        """As it is now."""
        engine = self.queued.engine
        return SlotReport(
            key=self.key,
            origin=engine.origin,
            state=self.state,
            references=self.references,
            engine=engine.status,
        )
