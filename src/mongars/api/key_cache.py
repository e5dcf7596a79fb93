"""API keys checked lately, so that not every request needs the database."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.core.identity import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCacheConfig:
    """Seconds, and how many keys are kept.

    A key is looked up again after `fresh` seconds. While the database cannot be asked it is believed
    for `stale` seconds after it was last found there, and asked about at most every `retry` seconds.
    """

    fresh: float = 30.0
    stale: float = 900.0
    retry: float = 5.0
    size: int = 1024


@dataclass(slots=True)
class _Entry:
    principal: Principal
    checked_at: float
    ask_at: float


class KeyCache:
    """The account of each key's digest.

    A revoked key may therefore work for up to `fresh` seconds longer, in each process; during an
    outage of the database up to `stale` seconds. Unknown keys are
    not remembered: a new key works at once, and trying keys fills nothing.
    """

    def __init__(self, clock: Clock, config: KeyCacheConfig | None = None) -> None:
        self._clock = clock
        self._config = config or KeyCacheConfig()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def get(self, digest: str) -> Principal | None:
        """The principal, unless unknown or due to be looked up."""
        entry = self._entries.get(digest)
        if entry is None or self._clock.monotonic() >= entry.ask_at:
            return None
        return entry.principal

    def put(self, digest: str, principal: Principal) -> None:
        """Remember a key just found in the database; the oldest entry makes room."""
        now = self._clock.monotonic()
        self._entries[digest] = _Entry(principal, now, now + self._config.fresh)
        self._entries.move_to_end(digest)
        while len(self._entries) > self._config.size:
            self._entries.popitem(last=False)

    def without_database(self, digest: str) -> Principal | None:
        """The principal of a key found there lately, now that the database cannot be asked."""
        entry = self._entries.get(digest)
        now = self._clock.monotonic()
        if entry is None or now >= entry.checked_at + self._config.stale:
            return None
        entry.ask_at = now + self._config.retry
        return entry.principal

    def forget(self, digest: str) -> None:
        """The key was found to be unknown or revoked."""
        self._entries.pop(digest, None)
