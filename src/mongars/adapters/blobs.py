"""Content-addressed files of the adapter registry: each is stored once, under the SHA-256 of its content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mongars.adapters.digest import AdapterFile
from mongars.core.errors import AdapterRejected
from mongars.core.files import flush_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

BLOCK_BYTES = 1 << 20
LARGEST_FILE = 8 << 30
"""Maximum size in bytes of one file of an adapter."""


class BlobStore:
    """The folder with the registry's files, named by their SHA-256; files are added and removed, never changed."""

    def __init__(self, root: Path) -> None:
        """`root`: the folder; it is created when the first file is added."""
        self._root = root

    def path_of(self, sha256: str) -> Path:
        """The path that the file with this SHA-256 has in the store, whether it exists or not."""
        return self._root / sha256

    def add(self, source: Path, *, path: str) -> AdapterFile:
        """Copy the file `source` into the store and return its description, with `path` as its path in the version.

        The copy is hashed while it is written, and flushed to the disk before it gets its name, so that what is stored
        under a digest is what was hashed, even if `source` changes meanwhile. Blocks. Raises `AdapterRejected` for a
        link, a special file or one of more than 8 GiB, and `OSError` if a file cannot be read or written.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with open_regular(source) as file, tempfile.NamedTemporaryFile(dir=self._root) as part:
            sha256, size = hashlib.sha256(), 0
            for block in _blocks(file):
                sha256.update(block)
                size += len(block)
                part.write(block)
            part.flush()
            os.fsync(part.fileno())
            stored = AdapterFile(path=path, size=size, sha256=sha256.hexdigest())
            target = self.path_of(stored.sha256)
            if not target.exists():
                os.fchmod(part.fileno(), 0o444)
                # A link, unlike a rename, leaves a complete file of another process in place.
                _link(Path(part.name), target)
        flush_folder(self._root)
        return stored

    def check(self, file: AdapterFile) -> None:
        """Read the stored file and check its size and SHA-256. Blocks.

        Raises `AdapterRejected`: `file_missing`, `wrong_size` or `wrong_checksum`.
        """
        try:
            with open_regular(self.path_of(file.sha256)) as stored:
                sha256, size = hashlib.sha256(), 0
                for block in _blocks(stored):
                    sha256.update(block)
                    size += len(block)
        except FileNotFoundError as exc:
            detail = f"The file {file.path!r} is not in the registry."
            raise AdapterRejected(detail, reason="file_missing") from exc
        if size != file.size:
            detail = f"The file {file.path!r} has {size} bytes instead of {file.size}."
            raise AdapterRejected(detail, reason="wrong_size")
        if sha256.hexdigest() != file.sha256:
            detail = f"The content of the file {file.path!r} is not that of its checksum."
            raise AdapterRejected(detail, reason="wrong_checksum")

    def remove_except(self, kept: frozenset[str]) -> list[str]:
        """Remove all files whose SHA-256 is not in `kept`; returns the names of the removed files."""
        if not self._root.is_dir():
            return []
        removed = [found for found in self._root.iterdir() if found.name not in kept]
        for found in removed:
            found.unlink()
        return sorted(found.name for found in removed)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, not through a link.

    Raises `AdapterRejected` (`link` or `special_file`) for anything else, and `OSError` if it cannot be opened.
    """
    if path.is_symlink():
        detail = f"{str(path)!r} is a link; adapters consist of regular files."
        raise AdapterRejected(detail, reason="link")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        detail = f"{str(path)!r} is not a regular file."
        raise AdapterRejected(detail, reason="special_file")
    return os.fdopen(descriptor, "rb")


def _link(source: Path, target: Path) -> None:
    """Give the file `source` the further name `target`, unless that exists already."""
    with contextlib.suppress(FileExistsError):  # added by another process, with the same content
        os.link(source, target)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    read = 0
    while block := file.read(BLOCK_BYTES):
        read += len(block)
        if read > LARGEST_FILE:
            detail = f"A file of the adapter has more than {LARGEST_FILE} bytes."
            raise AdapterRejected(detail, reason="file_too_large")
        yield block
