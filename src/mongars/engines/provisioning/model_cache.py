"""The model cache: files named by their sha256, whole or absent.

```
<root>/provision.lock            one provisioning run at a time
<root>/tmp/                      work in progress; whatever lies here at the start is a dead run's
<root>/blobs/sha256/<hex>        a model, never changed
<root>/blobs/sha256/<hex>.ok     size and time of the blob when its hash was last computed
<root>/models/<role>.json        which blob plays which role
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
from mongars.engines.provisioning.spec import ModelFile

if TYPE_CHECKING:
    from pathlib import Path

ReportBytes = Callable[[int], None]
"""Told the number of bytes done so far."""

_BLOCK = 1 << 20
_LOCK_POLL_S = 0.2
_SPARE_BYTES = 32 << 20  # what a full disk should keep for logs and the database


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file of the cache."""

    path: Path
    digest: str
    size: int


class ModelCache:
    """Base models on disk. Everything but `path_of`, `holds` and `recall` needs `exclusive`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._models = root / "models"
        self._tmp = root / "tmp"

    @contextmanager
    def exclusive(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the cache alone, calling `waiting` while another run does; sweeps dead runs' files."""
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
        """A private folder on the cache's own file system, gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self._tmp) as folder:
            yield self._tmp / folder

    def path_of(self, digest: str) -> Path:
        """Where the blob of that digest is, or would be."""
        return self._blobs / digest

    def holds(self, digest: str, *, size: int) -> bool:
        """Whether the blob is there, unchanged since its hash was computed. Does not read it."""
        path = self.path_of(digest)
        try:
            return path.stat().st_size == size and self._marker(digest).read_text() == stamp_of(
                path
            )
        except OSError:
            return False

    def verify(self, digest: str, report: ReportBytes) -> bool:
        """Hash the blob again; one that is not what its name says is removed."""
        path = self.path_of(digest)
        if not path.is_file():
            return False
        checksum = hashlib.sha256()
        for block in read_blocks(path, report):
            checksum.update(block)
        if checksum.hexdigest() != digest:
            self.discard(digest)
            return False
        write_atomically(self._marker(digest), stamp_of(path))
        return True

    def discard(self, digest: str) -> None:
        """Remove a blob."""
        self._marker(digest).unlink(missing_ok=True)
        self.path_of(digest).unlink(missing_ok=True)

    def require_space(self, needed: int) -> None:
        """Raise `ProvisioningFailed`, saying how much is missing, if that many bytes do not fit."""
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
        """Store bytes under their hash, dated `modified_ns` if given.

        Raises:
            ProvisioningFailed: the hash is not `expected`; nothing was stored.
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
        """Store a file by a second name for it, which costs no space; OSError if impossible."""
        with self.workspace() as folder:
            part = folder / "blob"
            part.hardlink_to(path)
            return self._publish(part, digest)

    def record(self, model: ModelFile) -> None:
        """Remember which file plays a role."""
        document = asdict(model) | {"path": str(model.path)}
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        write_atomically(self._models / f"{model.role}.json", text)

    def forget(self, role: str) -> None:
        """No file plays that role any more."""
        (self._models / f"{role}.json").unlink(missing_ok=True)

    def recall(self, role: str) -> ModelFile | None:
        """The file that plays a role, if it is there and of the right size."""
        try:
            document = json.loads((self._models / f"{role}.json").read_bytes())
            # The place follows from the digest, so that a moved cache keeps working.
            fields = {key: document[key] for key in ("role", "name", "digest", "size", "source")}
            model = ModelFile(**fields, path=self.path_of(fields["digest"]))
            return model if model.path.stat().st_size == model.size else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _publish(self, part: Path, digest: str) -> Blob:
        path = self.path_of(digest)
        part.replace(path)
        # A rename onto another name of the same file does nothing; then the part is still there.
        part.unlink(missing_ok=True)
        write_atomically(self._marker(digest), stamp_of(path))
        return Blob(path=path, digest=digest, size=path.stat().st_size)

    def _marker(self, digest: str) -> Path:
        return self._blobs / f"{digest}.ok"


def find_model(root: Path, role: str) -> ModelFile | None:
    """The file provisioned for a role, or None. Never downloads, never waits."""
    return ModelCache(root).recall(role)


def read_blocks(path: Path, report: ReportBytes) -> Iterator[bytes]:
    """The bytes of a file in blocks, reporting how many were read."""
    done = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
            done += len(block)
            report(done)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader, or a crash, sees the old one or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _flush_folder(path.parent)


def stamp_of(path: Path) -> str:
    """What changes whenever the file does: its size and the time of its last change."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}\n"


def megabytes(size: int) -> int:
    """Bytes as whole megabytes, never less than 1."""
    return max(1, round(size / 1_000_000))


def disk_message(error: OSError, root: Path) -> str:
    """What to do about a write that failed."""
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


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
