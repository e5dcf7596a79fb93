"""The integer that identifies an adapter in vLLM.

If a number is used again with other files, vLLM keeps using the old weights. So each number belongs to one
digest for as long as the process runs.
"""

from __future__ import annotations

import threading


class AdapterIds:
    """Assigns numbers from 1, one per digest."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    def id_of(self, digest: str) -> int:
        """The number of a digest; the same for each call."""
        with self._lock:
            return self._ids.setdefault(digest, len(self._ids) + 1)


ADAPTER_IDS = AdapterIds()
"""The only instance of this process: two would assign the same number twice."""
