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
    """Identifies an entry of the slot table (one running engine with its adapter).

    `role`: the model role, such as `general`. `digest`: SHA-256 of the adapter; None: the base model without an
    adapter.
    """

    role: TaskRole
    digest: str | None = None

    def __str__(self) -> str:
        """`ROLE/DIGEST` with 12 digits of the adapter's digest, or `ROLE/baseline` without an adapter."""
        return f"{self.role}/{BASE_ADAPTER if self.digest is None else self.digest[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """The state of one `SlotEntry` (one running engine with its adapter) at one moment.

    `origin`: model, engine and adapter, as the engine reports them. `state`: `active` (answers also requests that
    demand no adapter), `prepared` (only those that demand its adapter, or continue an answer of it) or `draining`
    (takes no new requests). `references`: requests assigned to the entry that have not ended. `engine`: the status of
    the engine.
    """

    key: SlotKey
    origin: Origin
    state: SlotState
    references: int
    engine: EngineStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLoad:
    """The capacity and load of the engines of a slot table, in requests.

    `slots`: how many requests are processed at a time by the engines that answer requests without a demanded adapter,
    one per model role. `active` and `waiting`: requests that are processed, and that wait in a queue, over all engines
    of the table.
    """

    slots: int
    active: int
    waiting: int


class SlotEntry:
    """One entry of the slot table: an engine with its adapter, its queue, its state, and the number of its requests.

    `state` is `active` (answers also requests that demand no adapter), `prepared` (only those that demand its adapter,
    or continue an answer of it), `draining` (takes no new requests) or `retired` (removed from the table).
    """

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
        """The model role and adapter digest of this entry, by which the slot table identifies it."""
        return SlotKey(role=self.role, digest=self.origin.adapter_digest)

    def check(self, event: SlotEvent) -> SlotState:
        """The state that this entry would have after `event`; changes nothing.

        `activate` leads from `prepared` (serves only requests that demand its adapter) to `active` (also those that
        demand none), `supersede` back, `drain` from `prepared` to `draining` (takes no new requests), and `retire`
        from there to `retired` (removed). Raises `IllegalTransition` if the event is not possible in the entry's
        current state.
        """
        return advance(self.state, event, entry=str(self.key))

    def hold(self) -> None:
        """Count one more request that is assigned to this entry; `release` counts it off again."""
        self.references += 1
        self.unused.clear()

    def release(self) -> None:
        """Count off a request of this entry that has ended; if none is left, the asyncio event `unused` is set."""
        self.references -= 1
        if not self.references:
            self.unused.set()

    @property
    def serving(self) -> bool:
        """Whether new requests can be assigned to this entry: its state is `prepared` or `active`."""
        return self.state in {"prepared", "active"}

    def report(self) -> SlotReport:
        """A snapshot of this entry: model and adapter, state, number of assigned requests, and its engine's status."""
        engine = self.queued.engine
        return SlotReport(
            key=self.key,
            origin=engine.origin,
            state=self.state,
            references=self.references,
            engine=engine.status,
        )
