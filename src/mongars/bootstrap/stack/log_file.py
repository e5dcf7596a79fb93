"""The log of a child: appended to, private, and put aside once it is large.

The child holds the file open and knows nothing of this, so a log that is put aside while it runs is
copied and emptied. What is written in between is lost; both files together stay below 20 MB and a
little.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 10 << 20
_TAIL_BYTES = 16_384


def open_log(path: Path) -> BinaryIO:
    """Open for appending; a log over 10 MB becomes `<name>.1` first, replacing an older one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size > _MAX_BYTES:
        path.replace(_older(path))
    return open(path, "ab", opener=_private)


def rotate(path: Path) -> None:
    """Put a log over 10 MB aside while its child runs; a full disk leaves it as it is."""
    with contextlib.suppress(OSError):
        if path.stat().st_size <= _MAX_BYTES:
            return
        with path.open("rb") as log, open(_older(path), "wb", opener=_private) as older:
            shutil.copyfileobj(log, older)
        os.truncate(path, 0)


def tail(path: Path, *, lines: int = 8) -> str:
    """The last lines of a log, or nothing if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def last_line(path: Path) -> str:
    """The last lines a process logged that are not events; events do not explain why it ended."""
    lines = [line for line in tail(path).splitlines() if not line.startswith("{")]
    return lines[-1].strip() if lines else f"see {path}"


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
