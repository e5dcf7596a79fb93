"""The slot table: the engines of a process, and the choice of the engine for each request.

Each entry is one running engine for one model role and one LoRA adapter, or the base model without an adapter, with
a queue of its own (one engine process per adapter version). Entries are added, activated and removed while others
serve:

1. `prepare` starts one more engine. If that fails, the table is unchanged.
2. `activate` assigns the following requests that demand no adapter to that entry.
3. `retire` removes an entry that is not active: no further request is assigned to it, its running ones end,
   then its engine is closed.

A request belongs to its entry from `lease` until its response ends, so another activation in between does not
change the engine that answers it. The states are in `slot_states`; how a request demands an adapter is in
`core.adapter_pin`. The table is for one event loop; it is not thread-safe.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.adapter_pin import BASE_NAMES, AdapterPin
from mongars.core.errors import Conflict, InferenceFailed, NotFound, NotReady
from mongars.core.generation import task_role
from mongars.engines.queued_engine import QueuedEngine
from mongars.engines.slot_choice import pinned_entry
from mongars.engines.slot_entry import SlotEntry, SlotKey, SlotLoad, SlotReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest, TaskRole
    from mongars.engines.engine import Engine

STABLE = "stable"
"""The alias of the active entry of each role."""
RESERVED_NAMES = BASE_NAMES | {STABLE}
"""Names that `set_alias` refuses, since they have a fixed meaning."""
_RESERVED = ", ".join(sorted(RESERVED_NAMES))


class SlotTable:
    """Owns the engines of a process, one entry per engine and adapter, and chooses the engine for each request.

    An entry is `active` (requests that demand no adapter use it), `prepared` (only requests that demand its adapter, or
    continue an answer of it) or `draining` (no new requests).
    """

    def __init__(self, *, max_waiting: int) -> None:
        """`max_waiting`: how many requests may wait for each engine; further ones are refused (`Overloaded`)."""
        self._max_waiting = max_waiting
        self._entries: list[SlotEntry] = []
        self._roles: dict[TaskRole, None] = {}
        """The roles in the order in which they were added."""
        self._preparing: set[SlotKey] = set()
        self._aliases: dict[tuple[TaskRole, str], SlotEntry] = {}
        self._closed = False

    def add(self, role: TaskRole, engine: Engine) -> None:
        """Add, without starting it, the engine for requests of the model role `role` that demand no adapter.

        Call `start` afterwards. Raises `Conflict` if the role has an engine for such requests already.
        """
        if self._active_of(role) is not None:
            detail = f"The role {role} has an active entry; use prepare and activate."
            raise Conflict(detail)
        queued = QueuedEngine(engine, max_waiting=self._max_waiting)
        self._roles.setdefault(role)
        self._entries.append(SlotEntry(role, queued, state="active"))

    async def start(self) -> None:
        """Start every engine that is in the table at the call, one after the other.

        After `aclose`, these include the engines that `prepare` added before. Raises `InferenceFailed` with the reason
        if one cannot start; then every engine is closed.
        """
        self._closed = False
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.aclose)
            for entry in tuple(self._entries):  # `prepare` may add others, which it starts itself
                await entry.queued.engine.start()
                entry.origin = entry.queued.engine.origin
            undo.pop_all()

    async def aclose(self) -> None:
        """Close every engine, even if closing one of them fails.

        Answers that are being generated are cut, and requests that wait for an engine fail with `NotReady`. The engines
        stay in the table; `start` starts them again.
        """
        self._closed = True
        async with AsyncExitStack() as closing:
            for entry in self._entries:
                closing.push_async_callback(entry.queued.engine.aclose)

    async def stop_unused(self) -> None:
        """Close every engine that is ready and has no request, running or waiting; it stays in the table.

        For engines that are started on demand: `start` of the engine itself starts a closed one again.
        """
        for entry in tuple(self._entries):
            engine = entry.queued.engine
            if not entry.references and engine.status.state == "ready":
                await engine.aclose()

    async def prepare(self, key: SlotKey, make_engine: Callable[[], Engine]) -> None:
        """Make and start one more engine, for `key.role` and the adapter `key.digest`, while the others serve.

        `make_engine` returns the engine, not started. Afterwards its state is `prepared`: requests can demand its
        adapter. On any error, cancellation included, the new engine is closed and the table is unchanged.

        Raises:
            Conflict: an engine with that role and adapter exists or is being prepared.
            InferenceFailed: the engine could not start, or has loaded another adapter than the key's.
            NotReady: the table was closed meanwhile.
            Exception: whatever `make_engine` raises.
        """
        if key in self._preparing or any(entry.key == key for entry in self._entries):
            detail = f"The entry {key} exists, or is being prepared."
            raise Conflict(detail)
        self._preparing.add(key)
        try:
            engine = make_engine()
            async with AsyncExitStack() as undo:
                undo.push_async_callback(engine.aclose)
                await engine.start()
                self._check_prepared(key, engine)
                queued = QueuedEngine(engine, max_waiting=self._max_waiting)
                self._roles.setdefault(key.role)
                self._entries.append(SlotEntry(key.role, queued, state="prepared"))
                undo.pop_all()
        finally:
            self._preparing.discard(key)

    def activate(self, key: SlotKey) -> None:
        """Let the engine of `key` (model role and adapter) answer the following requests that demand no adapter.

        Its state becomes `active`. Requests that are being answered, or wait in a queue, stay where they are. The
        engine of the role that was active becomes `prepared`: it still serves requests that demand its adapter, and can
        be activated again, or retired.

        Raises `NotFound` if there is no such engine, `IllegalTransition` if it is active or draining, and
        `InferenceFailed` if it has failed; then nothing changes.
        """
        entry = self._find(key)
        following = entry.check("activate")
        status = entry.queued.engine.status
        if status.state == "failed":
            detail = f"The engine of the entry {key} has failed: {status.detail}"
            raise InferenceFailed(detail)
        current = self._active_of(key.role)
        if current is not None:
            current.state = current.check("supersede")
        entry.state = following

    def set_alias(self, alias: str, key: SlotKey) -> None:
        """Make `alias`, such as `canary`, one more name by which requests can demand the adapter of `key`.

        Requests must write it with the same case. If another engine of the same role has the alias, it loses it. An
        alias is removed when its engine is drained.

        Raises `NotFound` if there is no engine with that role and adapter. Raises `Conflict` if that engine is
        draining (takes no new requests), or if the alias has an `@`, which separates names from digests, or is one of
        the fixed names `stable` (the adapter of the engine that answers requests without a demanded adapter),
        `baseline` and `base` (no adapter).
        """
        entry = self._find(key)
        if alias in RESERVED_NAMES or "@" in alias:
            detail = (
                f"{alias!r} cannot be an alias; give a name without @ that is none of {_RESERVED}."
            )
            raise Conflict(detail)
        if not entry.serving:
            detail = f"The alias {alias!r} cannot be given to {key}, which is {entry.state}."
            raise Conflict(detail)
        self._aliases[key.role, alias] = entry

    def drain(self, key: SlotKey) -> None:
        """Assign no further request to the engine of `key` (model role and adapter).

        Its running and waiting requests are still answered.

        Raises `NotFound` if there is no such engine, `IllegalTransition` if it is draining already, or is the active
        one, which answers requests that demand no adapter (activate another one first).
        """
        entry = self._find(key)
        entry.state = entry.check("drain")
        kept = {name: named for name, named in self._aliases.items() if named is not entry}
        self._aliases = kept

    async def retire(self, key: SlotKey, deadline: Deadline) -> None:
        """Drain the engine of `key` (model role and adapter), wait until its requests have ended, close and remove it.

        At the deadline, the engine is closed and the remaining responses are cut. If the wait is cancelled, the engine
        stays in the table in the state `draining` and takes no new requests; call this again to remove it.

        Raises `NotFound` if there is no such engine, `IllegalTransition` if it is the active one, which answers
        requests that demand no adapter (activate another one first).
        """
        entry = self._find(key)
        if entry.state != "draining":
            self.drain(key)
        try:
            async with asyncio.timeout(deadline.remaining()):
                await entry.unused.wait()
        except TimeoutError:
            pass  # closing the engine ends the remaining requests
        await entry.queued.engine.aclose()
        if entry in self._entries:  # otherwise another call has removed it meanwhile
            entry.state = entry.check("retire")
            self._entries.remove(entry)

    @asynccontextmanager
    async def lease(self, request: GenerationRequest) -> AsyncIterator[QueuedEngine]:
        """Choose the engine that answers `request`, and count the request as one of its own until the context is left.

        Meanwhile `retire` waits for the request, up to its deadline. The engine is one of the request's model role, or
        of `general` if no engine has that role: the one with the adapter that the request demands, else the one that
        generated the beginning in `continue_from`, else the active one, which is set by `add` or `activate`.

        Raises `AdapterUnknown` if the request demands an adapter that no engine of the role has, `NotReady` if it
        demands none and neither its role nor `general` has an active engine.
        """
        entry = self._choose(request)
        entry.hold()
        try:
            yield entry.queued
        finally:
            entry.release()

    def active(self, task_type: str) -> QueuedEngine:
        """The engine that answers requests with that `task_type` (such as `coding`) that demand no adapter.

        It is the active engine of the task type's model role, else that of the role `general`; `add` and `activate`
        make an engine active. Raises `NotReady` if neither role has one.
        """
        return self._active(task_role(task_type)).queued

    @property
    def actives(self) -> tuple[QueuedEngine, ...]:
        """For each model role, the engine that answers its requests without a demanded adapter, if there is one.

        In the order in which the roles were added.
        """
        found = [self._active_of(role) for role in self._roles]
        return tuple(entry.queued for entry in found if entry is not None)

    @property
    def load(self) -> SlotLoad:
        """The capacity of the engines that answer requests without a demanded adapter, and the load of all engines.

        The load is the number of requests that hold an engine's slot, and of those that wait for one.
        """
        queues = [entry.queued.admission for entry in self._entries]
        return SlotLoad(
            slots=sum(queued.engine.slots for queued in self.actives),
            active=sum(queue.active for queue in queues),
            waiting=sum(queue.waiting for queue in queues),
        )

    @property
    def reports(self) -> tuple[SlotReport, ...]:
        """A snapshot of the state of every entry (engine with its adapter), in the order in which they were added."""
        return tuple(entry.report() for entry in self._entries)

    def _check_prepared(self, key: SlotKey, engine: Engine) -> None:
        digest = engine.origin.adapter_digest
        if digest != key.digest:
            detail = f"The engine for the entry {key} has loaded another adapter: {digest!r}."
            raise InferenceFailed(detail)
        if self._closed:
            detail = "The engines were closed while another one was being prepared."
            raise NotReady(detail)

    def _choose(self, request: GenerationRequest) -> SlotEntry:
        role = task_role(request.task_type)
        if not any(entry.role == role for entry in self._entries):
            role = "general"
        serving = [entry for entry in self._entries if entry.role == role and entry.serving]
        if request.adapter is not None:
            return self._pinned(role, request.adapter, serving)
        partial = request.continue_from
        if partial is not None:  # continue with the weights that generated the beginning
            for entry in serving:
                if partial.was_from(entry.origin):
                    return entry
        return self._active(role)

    def _pinned(self, role: TaskRole, adapter: str, serving: list[SlotEntry]) -> SlotEntry:
        pin = AdapterPin.parse(adapter)
        alias = self._active_of(role) if pin.name == STABLE else None
        if pin.name is not None and alias is None:
            alias = self._aliases.get((role, pin.name))
        return pinned_entry(serving, pin, alias=alias)

    def _find(self, key: SlotKey) -> SlotEntry:
        for entry in self._entries:
            if entry.key == key:
                return entry
        detail = f"There is no entry {key}."
        raise NotFound(detail)

    def _active_of(self, role: TaskRole) -> SlotEntry | None:
        found = (each for each in self._entries if (each.role, each.state) == (role, "active"))
        return next(found, None)

    def _active(self, role: TaskRole) -> SlotEntry:
        found = self._active_of(role) or self._active_of("general")
        if found is None:
            detail = "No engine is active."
            raise NotReady(detail)
        return found
