"""Provision a model from a file on this machine."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mongars.core.errors import ProvisioningFailed
from mongars.engines.provisioning.gguf import check_gguf
from mongars.engines.provisioning.model_cache import Blob, read_blocks, stamp_of
from mongars.engines.provisioning.spec import source_of

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.engines.provisioning.job import Job
    from mongars.engines.provisioning.spec import FileSource, ModelFile


def ensure_file(job: Job, source: FileSource) -> tuple[ModelFile, bool]:
    """Store the GGUF file of `source` in the model cache as the model of the job's role: as a hard link, else a copy.

    Returns the model, and whether it was added now (False: it was in the cache). `job.force`: hash the file again even
    if it seems unchanged.

    Raises:
        ProvisioningFailed: the path is not a readable GGUF file, the file changed while it was read, or the disk has
            too little space.
        OSError: the file or the cache could not be read or written.
    """
    check_gguf(source.path)
    path = source.path.resolve()
    known = job.cache.recall(job.role)
    if known and not job.force and _unchanged(job, known, path):
        return known, False
    before = stamp_of(path)
    digest = _hash(job, path)
    blob, new = _stored(job, path, digest)
    if stamp_of(path) != before:
        job.cache.discard(digest)
        msg = f"{str(path)!r} changed while it was read. Try again once it is complete."
        raise ProvisioningFailed(msg)
    return job.keep(blob), new


def _unchanged(job: Job, known: ModelFile, path: Path) -> bool:
    return (
        known.source == source_of(job.spec)
        and job.cache.holds(known.digest, size=known.size)
        and stamp_of(known.path)
        == stamp_of(path)  # a copy has the modification time of its original
    )


def _hash(job: Job, path: Path) -> str:
    checksum = hashlib.sha256()
    for block in read_blocks(path, job.reporter("verify", path.stat().st_size)):
        checksum.update(block)
    return checksum.hexdigest()


def _stored(job: Job, path: Path, digest: str) -> tuple[Blob, bool]:
    size = path.stat().st_size
    if job.cache.holds(digest, size=size) or job.cache.verify(digest, job.reporter("verify", size)):
        return Blob(path=job.cache.path_of(digest), digest=digest, size=size), False
    try:
        return job.cache.link(path, digest), True
    except OSError:  # another file system, or one without hard links
        return _copy(job, path, digest), True


def _copy(job: Job, path: Path, digest: str) -> Blob:
    status = path.stat()
    job.cache.require_space(status.st_size)
    blocks = read_blocks(path, job.reporter("store", status.st_size))
    return job.cache.add(blocks, expected=digest, modified_ns=status.st_mtime_ns)
