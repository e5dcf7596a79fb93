"""The exception for schemas that cannot be enforced."""

from __future__ import annotations


class SchemaUnsupported(ValueError):
    """A part of the schema cannot be enforced for `reason`; `where` is its path, such as `properties.age.not`."""

    def __init__(self, reason: str, where: tuple[str, ...] = ()) -> None:
        place = ".".join(where) or "the schema"
        super().__init__(f"{place}: {reason}")
        self.reason = reason
        self.where = where
