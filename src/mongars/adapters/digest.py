r"""The identity of an adapter version: a digest of the paths, sizes and contents of its files.

The digest is the SHA-256 of one line per file, sorted by path: `<path>\0<size>\0<sha256 of the file>\n`, with paths
relative to the version's folder and `/` between their parts.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from mongars.core.errors import AdapterRejected

if TYPE_CHECKING:
    from collections.abc import Iterable

DIGEST_PATTERN = r"^[0-9a-f]{64}$"
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
"""A SHA-256 as 64 lower-case hexadecimal digits."""
LONGEST_PATH = 200
"""Maximum number of characters of a file's path within a version."""
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class AdapterFile(BaseModel):
    """One file of an adapter version: its relative path, its size in bytes and the SHA-256 of its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: int = Field(ge=0)
    sha256: Digest


def described(path: str, blocks: Iterable[bytes]) -> AdapterFile:
    """The description of the file at `path` in a version, whose content is `blocks` joined; reads each block once."""
    sha256, size = hashlib.sha256(), 0
    for block in blocks:
        sha256.update(block)
        size += len(block)
    return AdapterFile(path=path, size=size, sha256=sha256.hexdigest())


def version_digest(files: Iterable[AdapterFile]) -> str:
    """The digest of the adapter version that consists of `files`, in any order; 64 hexadecimal digits."""
    lines = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        lines.update(f"{file.path}\0{file.size}\0{file.sha256}\n".encode())
    return lines.hexdigest()


def check_path(path: str) -> str:
    """Return the relative path `path` of a file within a version, such as `adapter_config.json`.

    Raises `AdapterRejected` (`unsafe_path`) unless each part between `/` is of ASCII letters, digits, `.`, `_` and `-`
    and does not begin with `.` or `-`, so that no path leads out of the version's folder.
    """
    if len(path) > LONGEST_PATH or not all(map(_PART.fullmatch, path.split("/"))):
        detail = f"The file path {path[:LONGEST_PATH]!r} is not allowed in an adapter."
        raise AdapterRejected(detail, reason="unsafe_path")
    return path
