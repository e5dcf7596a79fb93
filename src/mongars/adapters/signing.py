"""Signatures of adapter versions: Ed25519 in DSSE envelopes around in-toto statements.

The statement names the version's digest and contains its whole record, so that a signature covers every file and
everything the publisher says of it. The format is that of DSSE v1 and in-toto Statement v1, read and written by
`securesystemslib`. A private key is a PEM file that only its owner can read; the keys that are trusted are listed, with
those that are revoked, in one JSON file.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined] # public, though in no `__all__`

from mongars.adapters.digest import Digest
from mongars.core.errors import AdapterRejected, ConfigurationError
from mongars.core.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.adapters.version_record import VersionRecord

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://mongars.dev/adapter-version/v1"
LARGEST_ENVELOPE = 1 << 20
"""Maximum size of a signature file in bytes."""


class TrustedKey(BaseModel):
    """A public key whose signatures are accepted: its id, the Ed25519 key in hexadecimal digits, and whose it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keyid: Digest
    public: Digest
    owner: str = ""


class TrustedKeys(BaseModel):
    """The content of a trusted keys file: `keys`, and the ids of keys and digests of versions that are revoked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[TrustedKey, ...] = ()
    revoked_keys: frozenset[Digest] = frozenset()
    revoked_versions: frozenset[Digest] = frozenset()

    def encode(self) -> bytes:
        """The content of the file: JSON with sorted keys, indented by two spaces."""
        fields = self.model_dump(mode="json")
        for name in ("revoked_keys", "revoked_versions"):
            fields[name] = sorted(fields[name])
        return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()


class _Subject(BaseModel):
    name: str
    digest: dict[str, str]


class _Statement(BaseModel):
    type_: str = Field(alias="_type")
    subject: list[_Subject] = Field(min_length=1, max_length=1)
    predicate_type: str = Field(alias="predicateType")
    predicate: dict[str, Any]


def generate_key(path: Path, *, owner: str = "") -> TrustedKey:
    """Generate a signing key, store it as the PEM file `path`, and return its public part, to be added to trusted keys.

    Only the owner of the file can read it. Raises `ConfigurationError` if the file exists or cannot be written.
    """
    signer = CryptoSigner.generate_ed25519()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(signer.private_bytes)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        detail = f"The signing key {path} cannot be written: {exc.strerror}."
        raise ConfigurationError(detail) from exc
    return _trusted(signer, owner=owner)


def load_key(path: Path) -> CryptoSigner:
    """Load the signing key in the PEM file `path`.

    Raises `ConfigurationError` if it cannot be read, is encrypted, or is no Ed25519 key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as exc:
        detail = f"The signing key {path} cannot be read: {exc.strerror}."
        raise ConfigurationError(detail) from exc
    except (ValueError, TypeError) as exc:
        detail = f"The signing key {path} is no unencrypted PEM file."
        raise ConfigurationError(detail) from exc
    if not isinstance(key, Ed25519PrivateKey):
        detail = f"The signing key {path} is no Ed25519 key."
        raise ConfigurationError(detail)
    return CryptoSigner(key)


def load_trusted_keys(path: Path) -> TrustedKeys:
    """Load the trusted keys file `path`; no keys if it does not exist.

    Raises `ConfigurationError`, naming the field, if it is unusable: keys that cannot be read must not count as none.
    """
    try:
        return TrustedKeys.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return TrustedKeys()
    except OSError as exc:
        detail = f"The trusted keys file {path} cannot be read: {exc.strerror}."
        raise ConfigurationError(detail) from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        detail = f"The trusted keys file {path} is unusable: {where}: {first['msg']}."
        raise ConfigurationError(detail) from exc


def save_trusted_keys(path: Path, keys: TrustedKeys) -> None:
    """Replace the trusted keys file `path`. Raises `OSError` if it cannot be written."""
    write_atomically(path, keys.encode())


def sign(record: VersionRecord, signer: CryptoSigner) -> bytes:
    """The content of a signature file for a version: a DSSE envelope with one signature."""
    envelope = Envelope(_statement(record), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), indent=2).encode()


def check_signature(data: bytes, record: VersionRecord, trusted: TrustedKeys) -> str:
    """Check the content of a version's signature file; returns the id of the trusted key that signed it.

    Raises `AdapterRejected`, with `reason`: `version_revoked`, `signature_invalid` (no envelope, or one that was
    changed), `key_untrusted`, `key_revoked`, or `signature_of_another` (valid, but of another version or record).
    """
    if record.digest in trusted.revoked_versions:
        detail = f"The adapter version {record.digest[:12]!r} is revoked."
        raise AdapterRejected(detail, reason="version_revoked")
    envelope = _envelope(data)
    signed_by = set(envelope.signatures)
    keys = [_public(key) for key in trusted.keys if key.keyid not in trusted.revoked_keys]
    usable = [key for key in keys if key.keyid in signed_by]
    if not usable:
        revoked = signed_by & trusted.revoked_keys
        found = "a revoked key" if revoked else "no trusted key"
        detail = f"The adapter version {record.digest[:12]!r} is signed by {found}."
        raise AdapterRejected(detail, reason="key_revoked" if revoked else "key_untrusted")
    try:
        accepted = envelope.verify([*usable], 1)
    except VerificationError as exc:
        detail = f"The signature of the adapter version {record.digest[:12]!r} does not fit."
        raise AdapterRejected(detail, reason="signature_invalid") from exc
    if envelope.payload_type != PAYLOAD_TYPE or not _is_of(envelope.payload, record):
        detail = f"The signature beside the version {record.digest[:12]!r} is that of another."
        raise AdapterRejected(detail, reason="signature_of_another")
    return next(iter(accepted))


def _statement(record: VersionRecord) -> bytes:
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": record.version, "digest": {"sha256": record.digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": record.model_dump(mode="json"),
    }
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def _is_of(payload: bytes, record: VersionRecord) -> bool:
    """Whether a signed statement is one of our type about exactly this record."""
    try:
        statement = _Statement.model_validate_json(payload)
    except ValidationError:
        return False
    types = (statement.type_, statement.predicate_type)
    return (
        types == (STATEMENT_TYPE, PREDICATE_TYPE)
        and statement.subject[0].digest == {"sha256": record.digest}
        and statement.predicate == record.model_dump(mode="json")
    )


def _envelope(data: bytes) -> Envelope:
    invalid = AdapterRejected("The signature file is no DSSE envelope.", reason="signature_invalid")
    if len(data) > LARGEST_ENVELOPE:
        raise invalid
    try:
        return Envelope.from_dict(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError) as exc:
        raise invalid from exc


def _public(key: TrustedKey) -> SSlibKey:
    return SSlibKey(key.keyid, "ed25519", "ed25519", {"public": key.public})


def _trusted(signer: CryptoSigner, *, owner: str) -> TrustedKey:
    public = signer.public_key
    return TrustedKey(keyid=public.keyid, public=public.keyval["public"], owner=owner)
