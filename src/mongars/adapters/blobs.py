"""Content-addressed files of the adapter registry: each is stored once, under the SHA-256 of its content."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mongars.adapters.digest import AdapterFile, described
from mongars.core.errors import AdapterRejected
from mongars.core.files import flush_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO, BinaryIO

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
            stored = described(path, _copied(_blocks(file), part.file))
            part.flush()
            os.fsync(part.fileno())
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
                found = described(file.path, _blocks(stored))
        except FileNotFoundError as exc:
            detail = f"The file {file.path!r} is not in the registry."
            raise AdapterRejected(detail, reason="file_missing") from exc
        if found.size != file.size:
            detail = f"The file {file.path!r} has {found.size} bytes instead of {file.size}."
            raise AdapterRejected(detail, reason="wrong_size")
        if found.sha256 != file.sha256:
            detail = f"The content of the file {file.path!r} is not that of its checksum."
            raise AdapterRejected(detail, reason="wrong_checksum")

    def remove_except(self, kept: frozenset[str]) -> None:
        """Remove all files whose SHA-256 is not in `kept`."""
        if not self._root.is_dir():
            return
        for found in [entry for entry in self._root.iterdir() if entry.name not in kept]:
            found.unlink()


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


def _copied(blocks: Iterable[bytes], target: IO[bytes]) -> Iterator[bytes]:
    """Yield `blocks`, each after it was written to `target`."""
    for block in blocks:
        target.write(block)
        yield block


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    read = 0
    while block := file.read(BLOCK_BYTES):
        read += len(block)
        if read > LARGEST_FILE:
            detail = f"A file of the adapter has more than {LARGEST_FILE} bytes."
            raise AdapterRejected(detail, reason="file_too_large")
        yield block
