"""The cache of base models: files named by their SHA-256, complete or absent.

```
<root>/provision.lock            lock: one provisioning run at a time
<root>/tmp/                      incomplete files; those present at the start are from an interrupted run
<root>/blobs/sha256/<hex>        a model file, never changed
<root>/blobs/sha256/<hex>.ok     size and time of the blob when its hash was last computed
<root>/models/<role>.json        which blob a role uses
```
A blob gets its name by one rename, after its bytes were hashed and flushed to the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mongars.core.clock import pause
from mongars.core.errors import ProvisioningFailed
from mongars.core.files import write_atomically
from mongars.engines.provisioning.spec import ModelFile

if TYPE_CHECKING:
    from pathlib import Path

ReportBytes = Callable[[int], None]
"""Called with the number of bytes done so far."""

_BLOCK = 1 << 20
_LOCK_POLL_S = 0.2
_SPARE_BYTES = 32 << 20  # disk space to leave free for logs and the database


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A model file in the model cache (a "blob"): its path, SHA-256 and size in bytes.

    `digest` is the SHA-256 in 64 hexadecimal digits.
    """

    path: Path
    digest: str
    size: int


class ModelCache:
    """The folder `root` with base models on disk: files named by their SHA-256, and which file each model role uses.

    Call all methods except `path_of`, `holds` and `recall` within `exclusive`. Digests are SHA-256 in 64 hexadecimal
    digits. Methods that write raise `OSError` if they cannot.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._models = root / "models"
        self._tmp = root / "tmp"

    @contextmanager
    def exclusive(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Lock the cache against other processes and remove files of interrupted runs; leaving the context unlocks it.

        Creates missing folders. Blocks while another process holds the lock, and calls `waiting` every 0.2 seconds
        meanwhile.
        """
        for folder in (self._blobs, self._models, self._tmp):
            folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.root / "provision.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try_lock(lock):
                waiting()
                pause(_LOCK_POLL_S)
            for leftover in self._tmp.iterdir():
                _remove(leftover)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A temporary private folder on the cache's file system; leaving the context removes it."""
        with tempfile.TemporaryDirectory(dir=self._tmp) as folder:
            yield self._tmp / folder

    def path_of(self, digest: str) -> Path:
        """The path that the file with the SHA-256 `digest` has in the cache, whether the file exists or not."""
        return self._blobs / digest

    def holds(self, digest: str, *, size: int) -> bool:
        """Whether the cached file with the SHA-256 `digest` exists with `size` bytes, unchanged since it was hashed.

        Compares size and modification time only; does not read the file.
        """
        path = self.path_of(digest)
        try:
            stamp = self._marker(digest).read_text(encoding="ascii", errors="replace")
            return path.stat().st_size == size and stamp == stamp_of(path)
        except OSError:
            return False

    def verify(self, digest: str, report: ReportBytes) -> bool:
        """Hash the cached file again and return whether it has the SHA-256 `digest`; if not, remove it.

        False if there is no such file. `report` is called with the number of bytes read so far.
        """
        path = self.path_of(digest)
        if not path.is_file():
            return False
        checksum = hashlib.sha256()
        for block in read_blocks(path, report):
            checksum.update(block)
        if checksum.hexdigest() != digest:
            self.discard(digest)
            return False
        write_atomically(self._marker(digest), stamp_of(path).encode())
        return True

    def discard(self, digest: str) -> None:
        """Delete the file with the SHA-256 `digest` from the cache; does nothing if there is none."""
        self._marker(digest).unlink(missing_ok=True)
        self.path_of(digest).unlink(missing_ok=True)

    def require_space(self, needed: int) -> None:
        """Raise `ProvisioningFailed` unless the cache's disk has `needed` free bytes and 32 MiB for other uses."""
        missing = needed + _SPARE_BYTES - shutil.disk_usage(self.root).free
        if missing > 0:
            msg = (
                f"Not enough space in {str(self.root)!r}: {megabytes(missing)} MB more are needed."
                " Free some, or set MONGARS_CACHE to a folder on a larger disk."
            )
            raise ProvisioningFailed(msg)

    def add(
        self, blocks: Iterable[bytes], *, expected: str, modified_ns: int | None = None
    ) -> Blob:
        """Store the bytes of `blocks` as a file of the cache, and return it.

        `expected`: their SHA-256. `modified_ns`: the file's modification time in nanoseconds since the epoch; None:
        now.

        Raises:
            ProvisioningFailed: the SHA-256 is not `expected`; nothing was stored.
            OSError: the file cannot be written; nothing was stored.
        """
        checksum = hashlib.sha256()
        with self.workspace() as folder:
            part = folder / "blob"
            with part.open("xb") as file:
                for block in blocks:
                    checksum.update(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            digest = checksum.hexdigest()
            if digest != expected:
                msg = f"its sha256 is {digest}, not {expected}"
                raise ProvisioningFailed(msg)
            part.chmod(0o444)
            if modified_ns is not None:
                os.utime(part, ns=(modified_ns, modified_ns))
            return self._publish(part, digest)

    def link(self, path: Path, digest: str) -> Blob:
        """Add the file at `path` to the cache as a hard link, which takes no space, and return the cached file.

        `digest` is its SHA-256, which is not checked. Raises `OSError` if a hard link is impossible, such as to another
        file system.
        """
        with self.workspace() as folder:
            part = folder / "blob"
            part.hardlink_to(path)
            return self._publish(part, digest)

    def record(self, model: ModelFile) -> None:
        """Record in the cache which model its role uses; replaces the role's earlier record."""
        document = asdict(model) | {"path": str(model.path)}
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        write_atomically(self._models / f"{model.role}.json", text.encode())

    def forget(self, role: str) -> None:
        """Remove the record of which model the role uses; the cached file stays. Does nothing if there is none."""
        (self._models / f"{role}.json").unlink(missing_ok=True)

    def recall(self, role: str) -> ModelFile | None:
        """The model recorded for a role; None if there is no usable record, or no file with the recorded size."""
        try:
            document = json.loads((self._models / f"{role}.json").read_bytes())
            # The path is derived from the digest, so that a moved cache keeps working.
            fields = {key: document[key] for key in ("role", "name", "digest", "size", "source")}
            model = ModelFile(**fields, path=self.path_of(fields["digest"]))
            return model if model.path.stat().st_size == model.size else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _publish(self, part: Path, digest: str) -> Blob:
        path = self.path_of(digest)
        part.replace(path)
        # A rename to a hard link of the same file does nothing and leaves the temporary file.
        part.unlink(missing_ok=True)
        write_atomically(self._marker(digest), stamp_of(path).encode())
        return Blob(path=path, digest=digest, size=path.stat().st_size)

    def _marker(self, digest: str) -> Path:
        return self._blobs / f"{digest}.ok"


def find_model(root: Path, role: str) -> ModelFile | None:
    """The model that was provisioned for `role` in the model cache at `root`; None if there is none.

    Never downloads, and never waits for another process.
    """
    return ModelCache(root).recall(role)


def read_blocks(path: Path, report: ReportBytes) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks of 1 MiB; `report` is called with the number of bytes read so far."""
    done = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
            done += len(block)
            report(done)


def stamp_of(path: Path) -> str:
    """The size and modification time of a file as text, to find out later whether the file was changed.

    Raises `OSError` if the file does not exist.
    """
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}\n"


def megabytes(size: int) -> int:
    """Convert bytes to megabytes of 1,000,000 bytes, rounded to the nearest whole number, at least 1."""
    return max(1, round(size / 1_000_000))


def disk_message(error: OSError, root: Path) -> str:
    """The error message for a failed write below the cache folder `root`, with advice for the operator."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        why = f"The disk ran full while writing below {str(root)!r}"
    else:
        why = f"Cannot write below {str(root)!r} ({error.strerror or error})"
    return f"{why}; nothing half-done was kept. Free some space or set MONGARS_CACHE elsewhere."


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
