"""Signatures of adapter versions: what a trusted key has signed is accepted, anything else is refused with a reason."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from mongars.adapters.digest import AdapterFile, version_digest
from mongars.adapters.signing import (
    TrustedKey,
    TrustedKeys,
    check_signature,
    generate_key,
    load_key,
    load_trusted_keys,
    save_trusted_keys,
    sign,
)
from mongars.adapters.version_record import BaseModelIdentity, VersionRecord
from mongars.core.errors import AdapterRejected, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def record(version: str = "v1", **facts: object) -> VersionRecord:
    """The record of a version with one file; its digest depends on `version`."""
    content = AdapterFile(path="adapter_model.safetensors", size=len(version), sha256="a" * 64)
    return VersionRecord(
        version=version,
        digest=version_digest([content]),
        created_at=datetime(2026, 11, 26, tzinfo=UTC),
        base=BaseModelIdentity(name="m", gguf_sha256="b" * 64),
        files=(content,),
        facts=facts,
    )


@pytest.fixture
def key(tmp_path: Path) -> TrustedKey:
    return generate_key(tmp_path / "signing-key.pem", owner="ada")


@pytest.fixture
def signature(tmp_path: Path, key: TrustedKey) -> bytes:
    assert key.owner == "ada"
    return sign(record(), load_key(tmp_path / "signing-key.pem"))


def test_a_signature_of_a_trusted_key_is_accepted(key: TrustedKey, signature: bytes) -> None:
    """The signature names the key that made it."""
    assert check_signature(signature, record(), TrustedKeys(keys=(key,))) == key.keyid


def test_the_signing_key_is_private(tmp_path: Path, key: TrustedKey) -> None:
    """Only the owner can read the key file, and a second key does not overwrite it."""
    path = tmp_path / "signing-key.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert key.public not in path.read_text()
    with pytest.raises(ConfigurationError, match=r"signing-key\.pem"):
        generate_key(path)


def changed(field: str, value: object) -> Callable[[bytes], bytes]:
    """A change of one field of the signed statement, whose signature stays as it was."""

    def change(data: bytes) -> bytes:
        envelope: dict[str, Any] = json.loads(data)
        statement = json.loads(base64.b64decode(envelope["payload"]))
        statement["predicate"][field] = value
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
        return json.dumps(envelope).encode()

    return change


def flipped(data: bytes) -> bytes:
    """The envelope with one bit of the signature flipped."""
    envelope = json.loads(data)
    raw = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    raw[5] ^= 1
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(raw)).decode()
    return json.dumps(envelope).encode()


@pytest.mark.parametrize(
    "spoil",
    [
        flipped,
        changed("version", "v2"),
        changed("facts", {"eval": "passed"}),
        lambda _: b"",
        lambda _: b"{}",
        lambda _: b"[]",
        lambda _: b"\xff",
        lambda _: b"[" * 100_000,
        lambda data: data + b" " * (2 << 20),
    ],
    ids=["bit", "version", "facts", "empty", "no-fields", "list", "not-utf-8", "deep", "large"],
)
def test_a_changed_signature_is_invalid(
    key: TrustedKey, signature: bytes, spoil: Callable[[bytes], bytes]
) -> None:
    """A changed statement or signature, or anything that is no envelope, is refused."""
    with pytest.raises(AdapterRejected) as refused:
        check_signature(spoil(signature), record(), TrustedKeys(keys=(key,)))
    assert refused.value.reason == "signature_invalid"


def test_the_signature_of_another_version_is_refused(key: TrustedKey, signature: bytes) -> None:
    """A valid signature does not serve for another version, nor for other facts about the same files."""
    for other in (record("v22"), record(eval="passed")):
        with pytest.raises(AdapterRejected) as refused:
            check_signature(signature, other, TrustedKeys(keys=(key,)))
        assert refused.value.reason == "signature_of_another"


def test_untrusted_and_revoked_keys_are_told_apart(
    tmp_path: Path, key: TrustedKey, signature: bytes
) -> None:
    """A key that is not listed is untrusted; one that was revoked stays refused even while it is listed."""
    other = generate_key(tmp_path / "other.pem")
    revoked = frozenset({key.keyid})
    for trusted, reason in (
        (TrustedKeys(), "key_untrusted"),
        (TrustedKeys(keys=(other,)), "key_untrusted"),
        (TrustedKeys(keys=(key, other), revoked_keys=revoked), "key_revoked"),
        (TrustedKeys(keys=(key,), revoked_versions={record().digest}), "version_revoked"),
    ):
        with pytest.raises(AdapterRejected) as refused:
            check_signature(signature, record(), trusted)
        assert refused.value.reason == reason


def test_a_key_that_claims_the_id_of_another_is_refused(
    tmp_path: Path, key: TrustedKey, signature: bytes
) -> None:
    """A trusted entry with the signer's id but another public key does not accept the signature."""
    other = generate_key(tmp_path / "other.pem")
    forged = TrustedKey(keyid=key.keyid, public=other.public)
    with pytest.raises(AdapterRejected) as refused:
        check_signature(signature, record(), TrustedKeys(keys=(forged,)))
    assert refused.value.reason == "signature_invalid"


def test_keys_rotate(tmp_path: Path, key: TrustedKey, signature: bytes) -> None:
    """While two keys are trusted, versions signed by either are accepted."""
    newer = generate_key(tmp_path / "newer.pem")
    again = sign(record(), load_key(tmp_path / "newer.pem"))
    trusted = TrustedKeys(keys=(key, newer))
    assert check_signature(signature, record(), trusted) == key.keyid
    assert check_signature(again, record(), trusted) == newer.keyid


def test_the_trusted_keys_file_is_read_back(tmp_path: Path, key: TrustedKey) -> None:
    """What was saved is loaded again; a missing file has no keys, and a damaged one stops the start by name."""
    path = tmp_path / "trusted-keys.json"
    assert load_trusted_keys(path) == TrustedKeys()
    kept = TrustedKeys(keys=(key,), revoked_keys={"c" * 64})
    save_trusted_keys(path, kept)
    assert load_trusted_keys(path) == kept
    path.write_text('{"keys": [{"keyid": "x"}]}')
    with pytest.raises(ConfigurationError, match=r"trusted-keys\.json.*keys\.0\.keyid"):
        load_trusted_keys(path)


def test_other_files_are_no_signing_keys(tmp_path: Path) -> None:
    """A missing file, a text and a key of another kind are refused by the file's name."""
    (tmp_path / "text.pem").write_text("hello")
    for name in ("missing.pem", "text.pem"):
        with pytest.raises(ConfigurationError, match=name):
            load_key(tmp_path / name)
