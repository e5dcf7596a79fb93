"""The registry of adapters in a folder: what is published is found again, whole, or refused with the reason."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mongars.adapters.manifest import MANIFEST_FILE, read_manifest
from mongars.adapters.registry import AdapterRegistry
from mongars.adapters.signing import TrustedKeys, generate_key, load_key
from mongars.adapters.version_record import BaseModelIdentity
from mongars.core.clock import SystemClock
from mongars.core.errors import AdapterRejected, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLOCK = SystemClock()
BASE = BaseModelIdentity(name="smollm2-135m-instruct", gguf_sha256="b" * 64)


def adapter(folder: Path, *, weights: bytes = b"weights") -> Path:
    """A folder with the files of an adapter; the registry does not look into them."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> AdapterRegistry:
    return AdapterRegistry(tmp_path / "registry", clock=CLOCK)


def publish(registry: AdapterRegistry, folder: Path, version: str) -> str:
    """Publish an adapter whose weights contain its version; returns its digest."""
    source = adapter(folder / version, weights=version.encode())
    return registry.publish(source, version=version, base=BASE).digest


def test_a_registry_that_does_not_exist_is_empty(registry: AdapterRegistry) -> None:
    """Without a registry there is no adapter, and reading creates nothing."""
    assert registry.manifest().aliases.stable is None
    assert registry.versions() == []
    assert not registry.root.exists()


def test_a_published_version_is_stable_and_verified(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    """The published version is the stable one, the one before it `previous`, and both have all their files."""
    first, second = (publish(registry, tmp_path, name) for name in ("v1", "v2"))
    manifest = registry.manifest()
    assert (manifest.aliases.stable, manifest.aliases.previous) == (second, first)
    assert manifest.generation == 2
    assert [record.version for record in registry.versions()] == ["v2", "v1"]
    assert registry.verify(first).version == "v1"


def test_readers_of_version_1_find_the_adapter(registry: AdapterRegistry, tmp_path: Path) -> None:
    """The manifest has the fields of version 1, and their paths lead to the files that were published."""
    publish(registry, tmp_path, "v1")
    publish(registry, tmp_path, "v2")
    fields = json.loads((registry.root / MANIFEST_FILE).read_text(encoding="utf-8"))
    current = fields["current"]
    assert (registry.root / current["relative_weights_path"]).read_bytes() == b"v2"
    assert (registry.root / current["relative_adapter_path"] / "adapter_config.json").is_file()
    assert len(current["weights_checksum"]) == 64
    assert [record["summary"]["version"] for record in fields["history"]] == ["v1"]
    assert fields["updated_at"]


def test_a_manifest_of_version_1_is_read() -> None:
    """A registry of the earlier monGARS is generation 0; its record is kept, and no alias names it."""
    record = {
        "relative_adapter_path": "cycle-1/adapter",
        "relative_weights_path": None,
        "relative_wrapper_path": None,
        "status": "success",
        "summary": {},
        "created_at": "2025-01-08T10:00:00",
        "weights_checksum": None,
    }
    written = {"current": record, "history": [], "updated_at": "2025-01-08T10:00:00"}
    manifest = read_manifest(json.dumps(written).encode())
    assert (manifest.generation, manifest.aliases.stable) == (0, None)
    assert manifest.current is not None
    assert manifest.current.relative_adapter_path == "cycle-1/adapter"


def test_the_same_files_are_one_version(registry: AdapterRegistry, tmp_path: Path) -> None:
    """Publishing the same files again, from another folder, changes neither the record nor the generation."""
    first = registry.publish(adapter(tmp_path / "a"), version="v1", base=BASE)
    again = registry.publish(adapter(tmp_path / "b"), version="other", base=BASE)
    assert again == first
    assert registry.manifest().generation == 1


def link(folder: Path) -> None:
    (folder / "more.json").symlink_to("/etc/hostname")


def linked_folder(folder: Path) -> None:
    (folder / "more").symlink_to("/etc")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "more.json")


def hidden(folder: Path) -> None:
    (folder / ".hidden").touch()


def spaces(folder: Path) -> None:
    (folder / "a b.json").touch()


def many(folder: Path) -> None:
    for number in range(100):
        (folder / f"f{number}.json").touch()


def no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (link, "link"),
        (linked_folder, "link"),
        (pipe, "special_file"),
        (hidden, "unsafe_path"),
        (spaces, "unsafe_path"),
        (many, "too_many_files"),
        (no_weights, "weights_missing"),
    ],
)
def test_a_folder_that_is_no_adapter_is_refused(
    registry: AdapterRegistry, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    """A folder with anything but regular files with plain names is refused, and nothing changes."""
    stable = publish(registry, tmp_path, "v1")
    folder = adapter(tmp_path / "bad")
    spoil(folder)
    with pytest.raises(AdapterRejected) as refused:
        registry.publish(folder, version="bad", base=BASE)
    assert refused.value.reason == reason
    assert registry.manifest().aliases.stable == stable
    assert [record.version for record in registry.versions()] == ["v1"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"current": ', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff{}", "not UTF-8"),
        (b'{"schema_version": 3}', "schema_version"),
        (b'{"generation": -1}', "generation"),
        (b'{"generation": 1, "aliases": {"stable": "../../etc"}}', "aliases.stable"),
        (b'{"generation": 1, "aliases": {"canary": {"digest": "x", "weight": 500}}}', "canary"),
        (b" " * (5 << 20), "bytes"),
    ],
    ids=str,
)
def test_a_damaged_manifest_is_named(registry: AdapterRegistry, data: bytes, says: str) -> None:
    """A manifest that cannot be used is refused with what is wrong in it, not taken for an empty registry."""
    registry.root.mkdir()
    (registry.root / MANIFEST_FILE).write_bytes(data)
    with pytest.raises(AdapterRejected, match=says) as refused:
        registry.manifest()
    assert refused.value.reason == "manifest_invalid"


def test_a_flipped_byte_is_found(registry: AdapterRegistry, tmp_path: Path) -> None:
    """A version whose stored file was changed, cut or removed is refused with a reason of its own."""
    digest = publish(registry, tmp_path, "v1")
    blob = next(
        registry.root / "blobs" / "sha256" / file.sha256
        for file in registry.show(digest).files
        if file.path.endswith(".safetensors")
    )
    blob.chmod(0o644)
    for content, reason in ((b"v2", "wrong_checksum"), (b"v", "wrong_size")):
        blob.write_bytes(content)
        with pytest.raises(AdapterRejected) as refused:
            registry.verify(digest)
        assert refused.value.reason == reason
    blob.unlink()
    with pytest.raises(AdapterRejected) as refused:
        registry.verify(digest)
    assert refused.value.reason == "file_missing"


@pytest.mark.parametrize("name", ["../../../etc", "/etc/passwd", "..", ".", "a/../b", "-rf", ""])
def test_no_name_leads_out_of_the_registry(registry: AdapterRegistry, name: str) -> None:
    """A digest that is a path is refused before any file is opened."""
    with pytest.raises(AdapterRejected) as refused:
        registry.show(name)
    assert refused.value.reason == "unsafe_path"


def test_an_unknown_version_is_not_found(registry: AdapterRegistry) -> None:
    """A digest that the registry does not have is `NotFound`."""
    with pytest.raises(NotFound, match="a" * 12):
        registry.show("a" * 64)


def test_a_signed_version_names_its_key(registry: AdapterRegistry, tmp_path: Path) -> None:
    """A version published with a key is accepted while that key is trusted; one without a signature is refused."""
    key = generate_key(tmp_path / "key.pem")
    signer = load_key(tmp_path / "key.pem")
    folder = adapter(tmp_path / "signed")
    record = registry.publish(folder, version="v1", base=BASE, signer=signer)
    assert registry.signed_by(record, TrustedKeys(keys=(key,))) == key.keyid
    unsigned = registry.show(publish(registry, tmp_path, "v2"))
    with pytest.raises(AdapterRejected) as refused:
        registry.signed_by(unsigned, TrustedKeys(keys=(key,)))
    assert refused.value.reason == "unsigned"
    signature = registry.root / "versions" / record.digest / "signature.json"
    signature.rename(registry.root / "versions" / unsigned.digest / "signature.json")
    with pytest.raises(AdapterRejected) as refused:
        registry.signed_by(unsigned, TrustedKeys(keys=(key,)))
    assert refused.value.reason == "signature_of_another"


def test_collect_keeps_what_the_manifest_names(registry: AdapterRegistry, tmp_path: Path) -> None:
    """Versions in the history stay, older ones and files of no version are removed."""
    digests = [publish(registry, tmp_path, f"v{number}") for number in range(13)]
    (registry.root / "blobs" / "sha256" / "leftover").write_bytes(b"x")
    assert set(registry.collect()) == set(digests[:2])
    assert not (registry.root / "blobs" / "sha256" / "leftover").exists()
    for digest in digests[2:]:
        registry.verify(digest)


PUBLISH = """
import sys
from pathlib import Path
from mongars.adapters.registry import AdapterRegistry
from mongars.adapters.version_record import BaseModelIdentity
from mongars.core.clock import SystemClock
registry = AdapterRegistry(Path(sys.argv[1]), clock=SystemClock())
base = BaseModelIdentity(name="m", gguf_sha256="b" * 64)
print("begins", flush=True)
for folder in sorted(Path(sys.argv[2]).iterdir()):
    registry.publish(folder, version=folder.name, base=base)
"""


def test_a_killed_publisher_leaves_a_valid_registry(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    """After kill -9 at any moment, the manifest is valid, its stable version is whole, and the next publish works."""
    sources = tmp_path / "sources"
    for number in range(150):
        adapter(sources / f"v{number:03}", weights=os.urandom(100_000))
    command = [sys.executable, "-c", PUBLISH, str(registry.root), str(sources)]
    killed = 0
    for delay in (0.0, 0.01, 0.02, 0.04, 0.06, 0.1):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as publisher:  # noqa: S603
            assert publisher.stdout is not None
            publisher.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                publisher.wait(delay)
            publisher.kill()
        killed += publisher.returncode == -signal.SIGKILL
        stable = registry.manifest().aliases.stable
        if stable is not None:
            registry.verify(stable)
    assert killed > 2, "the publisher was killed while it worked"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    assert len(registry.versions()) == 150
    for record in registry.versions():
        registry.verify(record.digest)


def test_two_publishers_lose_nothing(registry: AdapterRegistry, tmp_path: Path) -> None:
    """Versions that two processes publish at once are all in the registry, each with its own generation."""
    commands = []
    for name in ("a", "b"):
        for number in range(5):
            adapter(tmp_path / name / f"{name}{number}", weights=f"{name}{number}".encode())
        commands.append([sys.executable, "-c", PUBLISH, str(registry.root), str(tmp_path / name)])
    publishers = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
        for command in commands
    ]
    assert [publisher.wait(60) for publisher in publishers] == [0, 0]
    assert len(registry.versions()) == 10
    manifest = registry.manifest()
    assert manifest.generation == 10
    assert manifest.current is not None
    assert len({record.digest for record in (manifest.current, *manifest.history)}) == 10
