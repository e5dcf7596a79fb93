"""Make glibc's allocator return large freed blocks to the operating system.

By default, each freed block of up to 32 MB raises the size up to which glibc keeps freed blocks, and every thread
gets an arena of its own: after a few logins, whose hashing takes 19 MiB each, that memory stays allocated to the
process.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 1 << 20
_KEPT_BYTES = 4 << 20
"""Free memory kept at the end of the heap: setting any of these options makes glibc keep only 128 KiB, and the memory
that one request frees would be returned and requested again, page by page, with the next one.
"""
_ARENAS = 2


def give_memory_back() -> None:
    """Make the C allocator keep little freed memory from now on, and return what is free now to the operating system.

    Does nothing on systems other than Linux with glibc.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.malloc_trim(0)
