"""The registry of LoRA adapters in a folder: publishing, reading and removing versions.

```
adapter_manifest.json                    the only file that changes, replaced last and as a whole
blobs/sha256/<sha256>                    the files of all versions
versions/<digest>/record.json            what is known of a version; never changes
versions/<digest>/adapter/...            its files, as links to the blobs
versions/<digest>/signature.json         its signature, if it has one; replaced when it is signed anew
registry.lock                            held by the process that writes
```

A process that is killed at any moment leaves the manifest before or after its change, never a part of it; files that no
version names are removed by `collect`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mongars.adapters.blobs import BlobStore
from mongars.adapters.digest import check_path, version_digest
from mongars.adapters.manifest import (
    HISTORY,
    LARGEST_MANIFEST,
    MANIFEST_FILE,
    Aliases,
    Manifest,
    ManifestRecord,
    read_manifest,
)
from mongars.adapters.signing import LARGEST_ENVELOPE, check_signature, sign
from mongars.adapters.version_record import BaseModelIdentity, VersionRecord
from mongars.core.errors import AdapterRejected, NotFound
from mongars.core.files import flush_folder, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined] # public, though in no `__all__`

    from mongars.adapters.signing import TrustedKeys
    from mongars.core.clock import Clock

RECORD_FILE = "record.json"
SIGNATURE_FILE = "signature.json"
WEIGHTS = ("adapter_model.safetensors", "adapter.gguf")
"""Names of weights files; the first that a version has is the one that `weights_checksum` of version 1 is of."""
MOST_FILES = 64
"""Maximum number of files of one version."""


class AdapterRegistry:
    """A registry of LoRA adapters in the folder `root`. Every method blocks."""

    def __init__(self, root: Path, *, clock: Clock) -> None:
        """`root`: the folder; it is created by the first version that is published. `clock`: the time of records."""
        self.root = root
        self._clock = clock
        self._blobs = BlobStore(root / "blobs" / "sha256")
        self._versions = root / "versions"

    def manifest(self) -> Manifest:
        """The manifest now; an empty one of generation 0 if the registry does not exist.

        Raises `AdapterRejected` (`manifest_invalid`) if it is damaged, and `OSError` if it cannot be read.
        """
        try:
            with (self.root / MANIFEST_FILE).open("rb") as file:
                return read_manifest(file.read(LARGEST_MANIFEST + 1))
        except FileNotFoundError:
            return Manifest()

    def publish(
        self,
        folder: Path,
        *,
        version: str,
        base: BaseModelIdentity,
        parent: str | None = None,
        facts: dict[str, Any] | None = None,
        signer: CryptoSigner | None = None,
    ) -> VersionRecord:
        """Store the adapter in `folder` as a version and make it the stable one; returns its record.

        The files are copied, and stay in the registry until `collect`. Publishing the same files again returns the
        record of the first time. `version`: its name. `parent`, `facts`: see `VersionRecord`. `signer`: the key that signs
        the version; None: it has no signature, or keeps the one it has.

        Raises `AdapterRejected`, with its `reason`, for a folder that is no adapter, and `OSError` if the registry
        cannot be written. Then the manifest is unchanged.
        """
        with self._writing():
            files = tuple(
                self._blobs.add(source, path=path) for path, source in _files_of(folder).items()
            )
            record = VersionRecord(
                version=version,
                digest=version_digest(files),
                created_at=self._clock.now(),
                base=base,
                files=files,
                parent=parent,
                facts=facts or {},
            )
            kept = self._keep(record)
            if signer is not None:
                write_atomically(self._versions / kept.digest / SIGNATURE_FILE, sign(kept, signer))
            before = self.manifest()
            after = self._promoted(before, kept)
            if after is not before:
                write_atomically(self.root / MANIFEST_FILE, after.encode())
        return kept

    def show(self, digest: str) -> VersionRecord:
        """The record of the version with this digest.

        Raises `NotFound` if there is none, `AdapterRejected` (`record_invalid`) if it is damaged.
        """
        try:
            data = (self._versions / check_path(digest) / RECORD_FILE).read_bytes()
        except FileNotFoundError as exc:
            detail = f"The registry has no adapter version {digest[:12]!r}."
            raise NotFound(detail) from exc
        try:
            record = VersionRecord.model_validate_json(data)
        except ValidationError as exc:
            detail = f"The record of the adapter version {digest[:12]!r} is unusable."
            raise AdapterRejected(detail, reason="record_invalid") from exc
        if record.digest != digest or version_digest(record.files) != digest:
            detail = f"The record of the adapter version {digest[:12]!r} is that of other files."
            raise AdapterRejected(detail, reason="record_mismatch")
        return record

    def versions(self) -> list[VersionRecord]:
        """The records of all versions, the newest first. Raises the errors of `show` for a damaged one."""
        if not self._versions.is_dir():
            return []
        names = [entry.name for entry in self._versions.iterdir() if not entry.name.startswith(".")]
        records = [self.show(name) for name in names]
        return sorted(records, key=lambda record: record.created_at, reverse=True)

    def verify(self, digest: str) -> VersionRecord:
        """Read all files of a version and check them against its record, which is returned.

        Raises `NotFound`, or `AdapterRejected` whose `reason` says what is wrong: `file_missing`, `wrong_size`,
        `wrong_checksum`, `record_invalid` or `record_mismatch`.
        """
        record = self.show(digest)
        for file in record.files:
            self._blobs.check(file)
        return record

    def signed_by(self, record: VersionRecord, trusted: TrustedKeys) -> str:
        """The id of the trusted key that signed a version.

        Raises `AdapterRejected`: `unsigned`, or with a reason of `check_signature` (changed, of another version, or by a
        key that is untrusted or revoked).
        """
        try:
            with (self._versions / record.digest / SIGNATURE_FILE).open("rb") as file:
                data = file.read(LARGEST_ENVELOPE + 1)
        except FileNotFoundError as exc:
            detail = f"The adapter version {record.digest[:12]!r} is not signed."
            raise AdapterRejected(detail, reason="unsigned") from exc
        return check_signature(data, record, trusted)

    def collect(self) -> list[str]:
        """Remove versions that the manifest does not name, and files of no version; returns the removed digests."""
        with self._writing():
            named, records = _named(self.manifest()), self.versions()
            removed = [record.digest for record in records if record.digest not in named]
            for digest in removed:
                shutil.rmtree(self._versions / digest)
            kept = [record for record in records if record.digest in named]
            self._blobs.remove_except(frozenset(f.sha256 for r in kept for f in r.files))
        return removed

    def _keep(self, record: VersionRecord) -> VersionRecord:
        """Store a version's record and folder, complete or not at all; returns the earlier record if there is one."""
        target = self._versions / record.digest
        if target.exists():
            return self.show(record.digest)
        self._versions.mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".", dir=self._versions))
        try:
            for file in record.files:
                link = made / "adapter" / file.path
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(self._blobs.path_of(file.sha256), link)
            write_atomically(made / RECORD_FILE, record.model_dump_json(indent=2).encode())
            made.chmod(0o755)
            made.rename(target)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        flush_folder(self._versions)
        return record

    def _promoted(self, manifest: Manifest, record: VersionRecord) -> Manifest:
        """`manifest` with `record` as the stable version, and the one that was stable as `previous`.

        `manifest` itself if `record` is the stable version already.
        """
        if manifest.aliases.stable == record.digest:
            return manifest
        earlier = [] if manifest.current is None else [manifest.current]
        history = [one for one in (*earlier, *manifest.history) if one.digest != record.digest]
        aliases = Aliases(
            stable=record.digest,
            canary=manifest.aliases.canary,
            previous=manifest.aliases.stable,
        )
        return manifest.model_copy(
            update={
                "generation": manifest.generation + 1,
                "aliases": aliases,
                "current": _manifest_record(record),
                "history": tuple(history[:HISTORY]),
                "updated_at": self._clock.now(),
            }
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock of the registry; waits while another process holds it. Removes what killed writers left."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.root / "registry.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._versions.is_dir():
                for entry in self._versions.iterdir():
                    if entry.name.startswith("."):
                        shutil.rmtree(entry, ignore_errors=True)
            yield
        finally:
            os.close(lock)


def _files_of(folder: Path) -> dict[str, Path]:
    """The files below `folder` by relative path; raises `AdapterRejected` for links, special files, and too many."""
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder, followlinks=False):
        for name in (*folders, *names):
            path = Path(parent, name)
            relative = check_path(path.relative_to(folder).as_posix())
            if path.is_symlink():
                detail = f"The adapter has a link, {relative!r}; adapters consist of regular files."
                raise AdapterRejected(detail, reason="link")
            if name in names:
                found[relative] = path
        if len(found) > MOST_FILES:
            detail = f"The adapter has more than {MOST_FILES} files."
            raise AdapterRejected(detail, reason="too_many_files")
    if not set(found) & set(WEIGHTS):
        detail = f"{str(folder)!r} has no weights: {' or '.join(WEIGHTS)}."
        raise AdapterRejected(detail, reason="weights_missing")
    return dict(sorted(found.items()))


def _manifest_record(record: VersionRecord) -> ManifestRecord:
    paths = {file.path: file for file in record.files}
    weights = next(paths[name] for name in WEIGHTS if name in paths)
    folder = f"versions/{record.digest}/adapter"
    return ManifestRecord(
        relative_adapter_path=folder,
        relative_weights_path=f"{folder}/{weights.path}",
        summary={"status": "success", "version": record.version},
        created_at=record.created_at.isoformat(),
        weights_checksum=weights.sha256,
        version=record.version,
        digest=record.digest,
    )


def _named(manifest: Manifest) -> set[str | None]:
    records = [*manifest.history, *([] if manifest.current is None else [manifest.current])]
    aliases = manifest.aliases
    named = {aliases.stable, aliases.previous, *(record.digest for record in records)}
    return named if aliases.canary is None else {*named, aliases.canary.digest}
