"""The exception for schemas that cannot be enforced."""

from __future__ import annotations


class SchemaUnsupported(ValueError):
    """A part of a JSON Schema cannot be enforced on answers.

    `reason`: why, as text. `where`: the path of the part, such as `("properties", "age")`; empty for the whole schema.
    """

    def __init__(self, reason: str, where: tuple[str, ...] = ()) -> None:
        place = ".".join(where) or "the schema"
        super().__init__(f"{place}: {reason}")
        self.reason = reason
        self.where = where
