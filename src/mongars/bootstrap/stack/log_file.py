"""The log file of a child process: appended to, private, and rotated when it is large.

The child keeps the file open, so a log that is rotated while the child runs is copied and then truncated. Lines
written in between are lost. Both files together stay a little over 20 MB at most.
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
    """Open a log file for appending, readable by its owner only; creates its folder.

    A log over 10 MB is first renamed to `<name>.1`, replacing an older one.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size > _MAX_BYTES:
        path.replace(_older(path))
    return open(path, "ab", opener=_private)


def rotate(path: Path) -> None:
    """Copy a log over 10 MB to `<name>.1`, replacing an older one, and empty it, while a process writes to it.

    Ignores file errors.
    """
    with contextlib.suppress(OSError):
        if path.stat().st_size <= _MAX_BYTES:
            return
        with path.open("rb") as log, open(_older(path), "wb", opener=_private) as older:
            shutil.copyfileobj(log, older)
        os.truncate(path, 0)


def tail(path: Path, *, lines: int = 8) -> str:
    """The last non-empty lines of a log, at most `lines`; empty if the log cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def last_line(path: Path) -> str:
    """The last line of a log that is not a JSON object, to explain why a process ended.

    Only the last 8 non-empty lines are searched; if none qualifies, a hint to read the log.
    """
    lines = [line for line in tail(path).splitlines() if not line.startswith("{")]
    return lines[-1].strip() if lines else f"see {path}"


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
