"""Choose the slot of llama.cpp for each request, so that cached prompts are reused within a scope only.

Each slot keeps the tokens of its last prompt, and a request whose prompt begins the same is answered sooner. Across
users that would disclose data: the count of reused tokens, and the time saved, show how much of a prompt another
user has sent. So each request is sent to a specific slot, and reuses its content only if the slot was last used by
a request of the same scope. A request without a scope reuses nothing.

The slot with the longest common prefix is preferred if most of its content is reused; otherwise the least recently
used one.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mongars.core.generation import Message

_KEPT_SHARE = 0.5
"""A slot is preferred if more than this share of its messages is at the beginning of the new prompt."""


@dataclass(slots=True, kw_only=True)
class _Slot:
    index: int
    scope: str | None = None
    """The scope of the request whose prompt the slot contains; None: empty, unknown, or a request without a scope."""
    prefixes: tuple[int, ...] = ()
    """Hashes of the prompt up to and including each of its messages."""
    used: int = 0
    busy: bool = False


class HeldSlot:
    """A llama.cpp slot (one of the server's parallel sequences) that `PromptCacheSlots.hold` assigned to one request.

    `parameters` are fields to add to the JSON body of the request to llama.cpp: `id_slot`, the number of the slot, and
    `cache_prompt`, whether the prompt cached in it may be reused.
    """

    def __init__(self, slot: _Slot, *, scope: str | None, prefixes: tuple[int, ...]) -> None:
        self._slot = slot
        self._scope = scope
        self._prefixes = prefixes
        reuses = scope is not None and slot.scope == scope
        self.parameters: dict[str, Any] = {"id_slot": slot.index, "cache_prompt": reuses}
        """Fields to add to the body of the request to llama.cpp."""
        if not reuses:
            # Until llama.cpp has begun to read the new prompt, the slot still holds the old one.
            slot.scope, slot.prefixes = None, ()

    def prompt_started(self) -> None:
        """Record that llama.cpp has begun to process the request's prompt, which this slot caches from now on."""
        self._slot.scope, self._slot.prefixes = self._scope, self._prefixes


class PromptCacheSlots:
    """The slots (parallel sequences) of one llama.cpp server: which are in use, and whose prompt is cached in each.

    A cached prompt is reused only by requests of the same account. `slots` is their number.
    """

    def __init__(self, slots: int) -> None:
        self._slots = [_Slot(index=index) for index in range(slots)]
        self._free = asyncio.Semaphore(slots)
        self._process: int | None = None
        self._uses = 0

    @asynccontextmanager
    async def hold(
        self, scope: str | None, messages: Sequence[Message], *, process: int | None
    ) -> AsyncIterator[HeldSlot]:
        """Choose a llama.cpp slot for one request and hold it until the context is left; waits while all are in use.

        Chosen is the free slot of the same account whose cached prompt has the most first messages in common with
        `messages`, those of the request, if these are more than half of the cached prompt's messages; else the free
        slot that was unused for the longest time. `scope` is the account; None: the request reuses no cached prompt,
        and its own is not reused. `process` is the id of the child process, None while it does not run; when it has
        changed, all slots are empty.
        """
        prefixes = _prefixes(messages)
        async with self._free:
            if process != self._process:
                self._process = process
                for slot in self._slots:
                    slot.scope, slot.prefixes = None, ()
            chosen = self._choose(scope, prefixes)
            self._uses += 1
            chosen.used, chosen.busy = self._uses, True
            try:
                yield HeldSlot(chosen, scope=scope, prefixes=prefixes)
            finally:
                chosen.busy = False

    def _choose(self, scope: str | None, prefixes: tuple[int, ...]) -> _Slot:
        free = [slot for slot in self._slots if not slot.busy]
        own = [slot for slot in free if scope is not None and slot.scope == scope]
        best = max(own, key=lambda slot: _common(slot.prefixes, prefixes), default=None)
        if best is not None:
            common = _common(best.prefixes, prefixes)
            if common > _KEPT_SHARE * len(best.prefixes):
                return best
        return min(free, key=lambda slot: slot.used)


def _prefixes(messages: Sequence[Message]) -> tuple[int, ...]:
    found: list[int] = []
    last = 0
    for message in messages:
        last = hash((last, message.role, message.content))
        found.append(last)
    return tuple(found)


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """How many messages at the beginning of two prompts are equal; the arguments are results of `_prefixes`."""
    common = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        common += 1
    return common
