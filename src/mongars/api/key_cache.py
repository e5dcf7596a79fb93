"""A cache of the API keys that were found in the database, which also serves during a database outage."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.core.identity import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCacheConfig:
    """How long API keys stay cached, in seconds, and the largest number of cached keys (`size`).

    `fresh` seconds after a key was last found in the database, its next use looks it up again. If the database is
    unavailable then, the key is accepted until `stale` seconds after it was last found, and looked up at most every
    `retry` seconds.
    """

    fresh: float = 30.0
    stale: float = 900.0
    retry: float = 5.0
    size: int = 1024


@dataclass(slots=True)
class _Entry:
    principal: Principal
    checked_at: float
    next_lookup_at: float


class KeyCache:
    """Caches which account each valid API key belongs to, under the key's SHA-256.

    So a revoked key may work for up to `fresh` seconds longer in each process, and during an outage of the database for
    up to `stale` seconds. Unknown keys are not cached: a new key works at once, and guessed keys do not fill the cache.
    """

    def __init__(self, clock: Clock, config: KeyCacheConfig | None = None) -> None:
        self._clock = clock
        self._config = config or KeyCacheConfig()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def get(self, digest: str) -> Principal | None:
        """The account of the API key with the SHA-256 `digest` (hexadecimal); None if the key must be looked up.

        That is so if the key is not cached, or was last found in the database `fresh` seconds ago or earlier. In the
        latter case, a call of `without_database` that returned an account postpones the next look-up by `retry`
        seconds.
        """
        entry = self._entries.get(digest)
        if entry is None or self._clock.monotonic() >= entry.next_lookup_at:
            return None
        return entry.principal

    def put(self, digest: str, principal: Principal) -> None:
        """Cache the account of an API key just found in the database; a full cache drops the key found longest ago."""
        now = self._clock.monotonic()
        self._entries[digest] = _Entry(principal, now, now + self._config.fresh)
        self._entries.move_to_end(digest)
        while len(self._entries) > self._config.size:
            self._entries.popitem(last=False)

    def without_database(self, digest: str) -> Principal | None:
        """The account of the API key with the SHA-256 `digest`, if it was found in the last `stale` seconds, else None.

        Call it before a look-up in the database, for an account to use if the look-up fails. If it returns an account,
        `get` returns that account, too, for the next `retry` seconds, so that concurrent requests do not look the key
        up again.
        """
        entry = self._entries.get(digest)
        now = self._clock.monotonic()
        if entry is None or now >= entry.checked_at + self._config.stale:
            return None
        entry.next_lookup_at = now + self._config.retry
        return entry.principal

    def forget(self, digest: str) -> None:
        """Remove the API key with the SHA-256 `digest`, which the database does not accept any more, from the cache."""
        self._entries.pop(digest, None)
