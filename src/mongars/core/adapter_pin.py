"""How a request names the LoRA adapter that must answer it.

One rule for "no adapter" in the whole tree:

- in code, an engine, an origin or a key has no adapter if its digest is None;
- in text (bodies, headers, logs), that is written `baseline` (`generation.BASE_ADAPTER`);
- when read from a client, `base` (the word of Ollama and others) means the same as `baseline`;
- a request without a pin (None) names no adapter at all: it gets the active one of its role.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mongars.core.generation import BASE_ADAPTER

if TYPE_CHECKING:
    from mongars.core.generation import Origin

BASE_NAMES = frozenset({BASE_ADAPTER, "base"})
"""Names that pin the bare base model."""
_DIGEST_PREFIX = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPin:
    """An adapter by name (an alias or a version), by digest, or by both."""

    name: str | None = None
    digest: str | None = None
    """sha256 in hexadecimal digits, or its first 12 or more."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `NAME`, `NAME@DIGEST` or `@DIGEST`."""
        name, separator, digest = text.partition("@")
        if not separator:
            return cls(name=name)
        return cls(name=name or None, digest=digest)

    def __str__(self) -> str:
        """As `parse` reads it."""
        name = self.name or ""
        return name if self.digest is None else f"{name}@{self.digest}"

    @property
    def is_base(self) -> bool:
        """Whether it pins the bare base model."""
        return self.digest is None and self.name in BASE_NAMES

    def has_digest(self, digest: str | None) -> bool:
        """Whether an adapter with that digest may be meant; any may if the pin has no digest."""
        if self.digest is None:
            return True
        prefix = _DIGEST_PREFIX.fullmatch(self.digest)
        return prefix is not None and digest is not None and digest.startswith(self.digest)

    def matches(self, origin: Origin) -> bool:
        """Whether it names the adapter of that origin, by version or digest or both."""
        if self.is_base:
            return origin.adapter_digest is None
        named = self.name in {None, origin.adapter_version}
        return named and self.has_digest(origin.adapter_digest)
