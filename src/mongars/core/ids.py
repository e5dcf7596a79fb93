"""Identifiers: unguessable, sortable where it helps, never reused."""

from __future__ import annotations

import os
import re

_SAFE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def new_id(prefix: str) -> str:
    """A fresh identifier such as `req-4f1c…`, 96 random bits in hexadecimal."""
    return f"{prefix}-{os.urandom(12).hex()}"


def accept_id(candidate: str | None, *, prefix: str) -> str:
    """The caller's own identifier if it is harmless in headers and logs, else a fresh one."""
    if candidate is not None and _SAFE.fullmatch(candidate):
        return candidate
    return new_id(prefix)
