"""An adapter pin: the part of a request that names the LoRA adapter that must answer it.

How "no adapter" is written everywhere:

- in code, an engine, an origin or a key has no adapter if its digest is None;
- in text (bodies, headers, logs), no adapter is written `baseline` (`generation.BASE_ADAPTER`);
- when read from a client, `base` (used by Ollama and others) means the same as `baseline`;
- a request without a pin (None) is answered by the active adapter of its role.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mongars.core.generation import BASE_ADAPTER

if TYPE_CHECKING:
    from mongars.core.generation import Origin

BASE_NAMES = frozenset({BASE_ADAPTER, "base"})
"""Names by which a client pins the base model without an adapter."""
_DIGEST_PREFIX = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPin:
    """The adapter that a request demands: by `name` (an alias or a version), by `digest`, or by both.

    `digest` is the adapter's SHA-256 in lower-case hexadecimal digits, or at least the first 12 of them. A field that
    the request does not give is None.
    """

    name: str | None = None
    digest: str | None = None
    """SHA-256 in hexadecimal digits, whole or at least its first 12."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `NAME`, `NAME@DIGEST` or `@DIGEST` into the fields `name` and `digest`; None for a part not given.

        Accepts any text, the empty one included: a malformed DIGEST makes a pin that matches no adapter.
        """
        name, separator, digest = text.partition("@")
        if not separator:
            return cls(name=name)
        return cls(name=name or None, digest=digest)

    def __str__(self) -> str:
        """`NAME`, `NAME@DIGEST` or `@DIGEST` with the fields `name` and `digest`; `parse` is the inverse."""
        name = self.name or ""
        return name if self.digest is None else f"{name}@{self.digest}"

    @property
    def is_base(self) -> bool:
        """Whether this pin demands the base model without an adapter: the name `baseline` or `base`, and no digest."""
        return self.digest is None and self.name in BASE_NAMES

    def has_digest(self, digest: str | None) -> bool:
        """Whether this pin's digest (12 to 64 lower-case hexadecimal digits) is the beginning of `digest`.

        `digest` is the whole SHA-256 of an adapter, None for no adapter. Always True for a pin without a digest; always
        False for a pin with a malformed one; otherwise False for None.
        """
        if self.digest is None:
            return True
        prefix = _DIGEST_PREFIX.fullmatch(self.digest)
        return prefix is not None and digest is not None and digest.startswith(self.digest)

    def matches(self, origin: Origin) -> bool:
        """Whether an engine whose model and adapter are `origin` has the adapter that this pin demands.

        A pin for the base model matches an engine without an adapter. Otherwise the pin's `name`, if it has one, must
        equal `origin.adapter_version`, case included, and its digest must be the beginning of `origin.adapter_digest`.
        A name that is an alias does not match here.
        """
        if self.is_base:
            return origin.adapter_digest is None
        named = self.name in {None, origin.adapter_version}
        return named and self.has_digest(origin.adapter_digest)
