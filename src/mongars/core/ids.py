"""Random identifiers."""

from __future__ import annotations

import os
import re

_SAFE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def new_id(prefix: str) -> str:
    """A new identifier such as `req-4f1c…`: the prefix and 96 random bits in hexadecimal."""
    return f"{prefix}-{os.urandom(12).hex()}"


def accept_id(candidate: str | None, *, prefix: str) -> str:
    """Return `candidate` if it is safe in headers and logs, else a new identifier that begins with `prefix`.

    Safe are 1 to 128 ASCII letters, digits, `.`, `_`, `:` and `-`. None is not.
    """
    if candidate is not None and _SAFE.fullmatch(candidate):
        return candidate
    return new_id(prefix)
