"""The integer that identifies an adapter in vLLM.

vLLM keeps the old weights when a number is used again with other files, so a number belongs to one digest
as long as the process runs.
"""

from __future__ import annotations

import threading


class AdapterIds:
    """Assigns numbers from 1, one per digest."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    def id_of(self, digest: str) -> int:
        """The number of a digest; always the same one."""
        with self._lock:
            return self._ids.setdefault(digest, len(self._ids) + 1)


ADAPTER_IDS = AdapterIds()
"""The only instance of this process: two would assign the same number twice."""
