"""Which slot of llama.cpp a request is sent to, so that prompts are reused within a scope only.

Each slot keeps the tokens of its last prompt, and a request whose prompt begins the same is answered
sooner. Across users that discloses data: the count of reused tokens, and the time they save, show how much
of a prompt another user has sent. So each request is sent to a named slot, and reuses its content only if a
request of the same scope put it there. A request without a scope reuses nothing.

The slot with the longest common prefix is preferred if most of its content is reused; else the one that was used
least recently.
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
"""Of the messages in a slot, more than this share must be in the new prompt for it to be preferred."""


@dataclass(slots=True, kw_only=True)
class _Slot:
    index: int
    scope: str | None = None
    """The scope of the request whose prompt it holds; None while empty or unknown."""
    prefixes: tuple[int, ...] = ()
    """A hash of the prompt up to and including each of its messages."""
    used: int = 0
    busy: bool = False


class HeldSlot:
    """A slot that one request uses."""

    def __init__(self, slot: _Slot, *, scope: str | None, prefixes: tuple[int, ...]) -> None:
        self._slot = slot
        self._scope = scope
        self._prefixes = prefixes
        reuses = scope is not None and slot.scope == scope
        self.parameters: dict[str, Any] = {"id_slot": slot.index, "cache_prompt": reuses}
        """Fields for the request to llama.cpp."""
        if not reuses:
            # Until llama.cpp has begun to read the new prompt, the slot still holds the old one.
            slot.scope, slot.prefixes = None, ()

    def prompt_started(self) -> None:
        """Call this when llama.cpp has begun to read the prompt: the slot holds nothing else from then on."""
        self._slot.scope, self._slot.prefixes = self._scope, self._prefixes


class PromptCacheSlots:
    """The slots of one llama.cpp process: which are busy, and which scope used each last."""

    def __init__(self, slots: int) -> None:
        self._slots = [_Slot(index=index) for index in range(slots)]
        self._free = asyncio.Semaphore(slots)
        self._process: int | None = None
        self._uses = 0

    @asynccontextmanager
    async def hold(
        self, scope: str | None, messages: Sequence[Message], *, process: int | None
    ) -> AsyncIterator[HeldSlot]:
        """Use a slot for one request; waits while all are busy.

        `process` identifies the running child: a new one has empty slots.
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
    """How many messages both begin with."""
    common = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        common += 1
    return common
