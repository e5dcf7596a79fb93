"""The exception for schemas that cannot be enforced."""

from __future__ import annotations


class SchemaUnsupported(ValueError):
    """A part of a schema cannot be enforced; `reason` is a text, `where` the path, such as `("properties", "age")`."""

    def __init__(self, reason: str, where: tuple[str, ...] = ()) -> None:
        place = ".".join(where) or "the schema"
        super().__init__(f"{place}: {reason}")
        self.reason = reason
        self.where = where
