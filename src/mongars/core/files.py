"""Files that are written completely or not at all, also if the process or the machine stops meanwhile."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def flush_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, so that new names survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file `path` by one with the content `data`: readers see the old or the new one, even after a crash.

    Every user can read it. Blocks. Raises `OSError` if it cannot be written; then the old file is unchanged.
    """
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # a temporary file is private at first
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    flush_folder(path.parent)
