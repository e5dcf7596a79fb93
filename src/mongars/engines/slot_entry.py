"""One entry of the slot table: an engine, its queue, its state and the number of requests it has."""

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
    """Identifies an entry of the slot table: a task role, and the adapter's digest (None: the bare base model)."""

    role: TaskRole
    digest: str | None = None

    def __str__(self) -> str:
        """`ROLE/DIGEST` with 12 digits, or `ROLE/baseline`; for messages."""
        return f"{self.role}/{BASE_ADAPTER if self.digest is None else self.digest[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """The state of one `SlotEntry` (an engine of the slot table) at one moment."""

    key: SlotKey
    origin: Origin
    """Model, engine and adapter, as the engine reports them."""
    state: SlotState
    references: int
    """Requests that were assigned to the entry and have not ended."""
    engine: EngineStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLoad:
    """How many slots the engines of a slot table have, and how many requests hold or wait for one."""

    slots: int
    """Slots of the active entries' engines."""
    active: int
    """Requests that hold a slot, over all entries."""
    waiting: int
    """Requests that wait for a slot, over all entries."""


class SlotEntry:
    """One engine of the slot table, with its queue, state and references (requests assigned to it)."""

    def __init__(self, role: TaskRole, queued: QueuedEngine, *, state: SlotState) -> None:
        self.role = role
        self.queued = queued
        self.state = state
        self.references = 0
        self.unused = asyncio.Event()
        """Set while no request refers to the entry."""
        self.unused.set()
        self.origin = queued.engine.origin
        """Model, engine and adapter when the entry was added or its engine started; keys are derived from it."""

    @property
    def key(self) -> SlotKey:
        """The entry's role and adapter digest, by which the slot table identifies it."""
        return SlotKey(role=self.role, digest=self.origin.adapter_digest)

    def check(self, event: SlotEvent) -> SlotState:
        """The state that the entry would have after `event`; changes nothing.

        Raises `IllegalTransition` if the event is not possible in the current state.
        """
        return advance(self.state, event, entry=str(self.key))

    def hold(self) -> None:
        """Increment the number of references."""
        self.references += 1
        self.unused.clear()

    def release(self) -> None:
        """Decrement the number of references; at 0, set the asyncio event `unused`."""
        self.references -= 1
        if not self.references:
            self.unused.set()

    @property
    def serving(self) -> bool:
        """Whether new requests can be assigned to the entry: it is prepared or active."""
        return self.state in {"prepared", "active"}

    def report(self) -> SlotReport:
        """The entry's current state and references, and its engine's status."""
        engine = self.queued.engine
        return SlotReport(
            key=self.key,
            origin=engine.origin,
            state=self.state,
            references=self.references,
            engine=engine.status,
        )
