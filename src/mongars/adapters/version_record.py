"""What is known of one published adapter version."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from mongars.adapters.digest import AdapterFile, Digest

NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$"


class BaseModelIdentity(BaseModel):
    """The base model that an adapter was trained on: its name, architecture and the SHA-256 of its GGUF file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    gguf_sha256: Digest
    architecture: str = "llama"


class VersionRecord(BaseModel):
    """What is known of one published version; written once. The digest identifies its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    version: str = Field(pattern=NAME_PATTERN)
    digest: Digest
    created_at: AwareDatetime
    base: BaseModelIdentity
    files: tuple[AdapterFile, ...]
    parent: Digest | None = None
    """The version from which training continued; None if it began with the base model."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """Further facts of the publisher, such as dataset, training and evaluation, as JSON."""
