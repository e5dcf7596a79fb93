"""The integer by which vLLM knows an adapter.

vLLM keeps the old weights when a number comes back with other files, so a number belongs to one
digest for as long as the process lives.
"""

from __future__ import annotations

import threading


class AdapterIds:
    """Hands out numbers from 1, one per digest."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    def id_of(self, digest: str) -> int:
        """The number of a digest; the same whenever it is asked for."""
        with self._lock:
            return self._ids.setdefault(digest, len(self._ids) + 1)


ADAPTER_IDS = AdapterIds()
"""Those of this process; the promise above holds for one instance only."""
