"""Makes glibc's allocator give large blocks back to the system.

By itself it takes each freed block of up to 32 MB for a hint to keep such blocks, and gives every
thread an arena of its own: a few logins, whose hashing takes 19 MiB each, then stay on the process's
account for good.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 1 << 20
_KEPT_BYTES = 4 << 20
"""Free memory kept at the end of the heap: setting one of these makes glibc keep 128 KiB, and what a
request frees would go to the system and come back, page by page, with the next one."""
_ARENAS = 2


def give_memory_back() -> None:
    """Set that for this process, and give back what its start has freed; elsewhere do nothing."""
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.malloc_trim(0)
