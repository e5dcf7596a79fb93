"""The manifest of an adapter registry, `adapter_manifest.json`: the only file of a registry that changes.

Version 2 keeps the fields of version 1, which the earlier monGARS wrote, so that its readers still find the active
adapter: `current`, `history` (newest first), `updated_at`, and in each record the paths relative to the registry and
`weights_checksum`. It adds `schema_version`, `generation`, which only grows, and `aliases`, which name digests.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mongars.adapters.digest import Digest
from mongars.core.errors import AdapterRejected

MANIFEST_FILE = "adapter_manifest.json"
HISTORY = 10
"""How many earlier versions `history` lists at most, as in version 1."""
LARGEST_MANIFEST = 4 << 20
"""Maximum size of a manifest in bytes."""


class _ManifestPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class ManifestRecord(_ManifestPart):
    """What the manifest says of one version; the fields of version 1 and, from version 2 on, its `digest` and `version`.

    Paths are relative to the registry. `weights_checksum` is the SHA-256 of the weights file. `digest` None: a record of
    version 1, whose adapter has no verified identity.
    """

    relative_adapter_path: str
    relative_weights_path: str | None = None
    relative_wrapper_path: str | None = None
    status: str = "success"
    summary: dict[str, Any] = Field(default_factory=dict)
    created_at: str
    weights_checksum: str | None = None
    version: str | None = None
    digest: Digest | None = None


class Canary(_ManifestPart):
    """The version that gets a part of the requests: its digest, and `weight`, the part in percent."""

    digest: Digest
    weight: int = Field(ge=0, le=100)


class Aliases(_ManifestPart):
    """The versions with a role: `stable` answers, `canary` a part of the requests, `previous` was stable before.

    None: no version has the role; without `stable`, the base model answers.
    """

    stable: Digest | None = None
    canary: Canary | None = None
    previous: Digest | None = None


class Manifest(_ManifestPart):
    """A registry's manifest. `generation`: increases with every change; 0 for an empty or a version 1 registry."""

    schema_version: Literal[2] = 2
    generation: int = Field(default=0, ge=0)
    aliases: Aliases = Aliases()
    current: ManifestRecord | None = None
    history: tuple[ManifestRecord, ...] = ()
    updated_at: AwareDatetime | None = None

    def encode(self) -> bytes:
        """The manifest as the content of its file: UTF-8 JSON with sorted keys, indented by two spaces."""
        fields = self.model_dump(mode="json")
        return (json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_manifest(data: bytes) -> Manifest:
    """Parse the content of a manifest file, of version 1 or 2; a version 1 manifest becomes generation 0, without aliases.

    Raises `AdapterRejected` (`manifest_invalid`), naming the field, for anything else.
    """
    if len(data) > LARGEST_MANIFEST:
        msg = f"it has more than {LARGEST_MANIFEST} bytes"
        raise _invalid(msg)
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        reason = "it is not UTF-8" if isinstance(exc, UnicodeDecodeError) else "it is no JSON"
        raise _invalid(reason) from exc
    if not isinstance(fields, dict):
        msg = "it is no JSON object"
        raise _invalid(msg)
    version = fields.setdefault("schema_version", 2 if "generation" in fields else None)
    if version is None:
        fields = {**fields, "schema_version": 2, "updated_at": _aware(fields.get("updated_at"))}
    try:
        return Manifest.model_validate(fields)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        msg = f"{where}: {first['msg']}"
        raise _invalid(msg) from exc


def _aware(text: object) -> object:
    """A time of version 1 with UTC added if it has no time zone; anything else unchanged."""
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return text
    return text if found is None or found.tzinfo is not None else f"{text}+00:00"


def _invalid(reason: str) -> AdapterRejected:
    detail = f"The manifest {MANIFEST_FILE} is unusable: {reason}."
    return AdapterRejected(detail, reason="manifest_invalid")
