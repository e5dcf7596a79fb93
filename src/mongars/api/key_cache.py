"""Keys checked a moment ago, so that not every request asks the database."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.core.identity import Principal


class KeyCache:
    """Whom a key's digest stands for, believed for `seconds`; at most `size` of them.

    A revoked key may therefore work for up to `seconds` longer, in each process. Unknown keys are
    not remembered: a new key works at once, and trying keys fills nothing.
    """

    def __init__(self, clock: Clock, *, seconds: float = 30.0, size: int = 1024) -> None:
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._entries: OrderedDict[str, tuple[float, Principal]] = OrderedDict()

    def get(self, digest: str) -> Principal | None:
        """The principal, unless unknown or too old."""
        until, principal = self._entries.get(digest, (0.0, None))
        if principal is None or self._clock.monotonic() < until:
            return principal
        del self._entries[digest]
        return None

    def put(self, digest: str, principal: Principal) -> None:
        """Remember a key just checked; the oldest entry makes room."""
        self._entries[digest] = (self._clock.monotonic() + self._seconds, principal)
        self._entries.move_to_end(digest)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
