"""Random identifiers."""

from __future__ import annotations

import os
import re

_SAFE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def new_id(prefix: str) -> str:
    """A new identifier such as `req-4f1c…`: `prefix`, a hyphen and 96 random bits in 24 hexadecimal digits."""
    return f"{prefix}-{os.urandom(12).hex()}"


def accept_id(candidate: str | None, *, prefix: str) -> str:
    """Return `candidate` if it is safe in headers and logs, else the result of `new_id(prefix)`.

    Safe are 1 to 128 ASCII letters, digits, `.`, `_`, `:` and `-`. None is replaced like an unsafe text.
    """
    if candidate is not None and _SAFE.fullmatch(candidate):
        return candidate
    return new_id(prefix)
