"""The refusal of a schema that cannot be enforced."""

from __future__ import annotations


class SchemaUnsupported(ValueError):
    """What cannot be enforced; `where` is its place in the schema, such as `properties.age.not`."""

    def __init__(self, reason: str, where: tuple[str, ...] = ()) -> None:
        place = ".".join(where) or "the schema"
        super().__init__(f"{place}: {reason}")
        self.reason = reason
        self.where = where
