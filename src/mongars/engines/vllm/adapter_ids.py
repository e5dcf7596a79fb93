"""The integer ids that identify adapters in vLLM.

If an id is used again for other files, vLLM keeps using the old weights. So each id belongs to one digest for as
long as the process runs.
"""

from __future__ import annotations

import threading


class AdapterIds:
    """Assigns the integer ids (from 1) by which vLLM identifies adapters: one per adapter digest, never reused."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    def id_of(self, digest: str) -> int:
        """The id (from 1) of the adapter with the SHA-256 `digest`; the same at each call. Thread-safe."""
        with self._lock:
            return self._ids.setdefault(digest, len(self._ids) + 1)


ADAPTER_IDS = AdapterIds()
"""The only instance of this process; two instances would assign the same id to different adapters."""
