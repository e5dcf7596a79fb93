"""Merges two schemas that must both be valid into one, and detects schemas that exclude each other."""

from __future__ import annotations

from typing import Any

from mongars.protocol.schema.keywords import Schema, SchemaPath, demands
from mongars.protocol.schema.unsupported import SchemaUnsupported

_GREATER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_LESSER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_NAMES = ("additionalProperties", "patternProperties", "propertyNames")
"""Keywords that apply to all properties, and therefore also to the properties of the other schema."""
TYPES = ("string", "integer", "number", "boolean", "null", "object", "array")


def merged(first: Schema, second: Schema, where: SchemaPath) -> Schema:
    """A schema for which exactly those values are valid that are valid for both schemas.

    `where`: their path in the whole schema, for the error. Raises `SchemaUnsupported` if no such schema can be
    expressed.
    """
    _check_names(first, second, where)
    result = dict(first)
    for name, value in demands(second).items():
        mine = result.get(name, value)
        result[name] = value if mine == value else _both(name, mine, value, where=where)
    return result


def _check_names(first: Schema, second: Schema, where: SchemaPath) -> None:
    same = first.get("properties", {}).keys() == second.get("properties", {}).keys()
    for one, other in ((first, second), (second, first)):
        for name in _NAMES:
            if not same and one.get(name, True) is not True and other.get("properties"):
                reason = f"{name!r} cannot be merged with the properties of another part"
                raise SchemaUnsupported(reason, where)


def _both(name: str, mine: Any, other: Any, *, where: SchemaPath) -> Any:  # noqa: ANN401 (any keyword)
    if name in _GREATER:
        return max(mine, other)
    if name in _LESSER:
        return min(mine, other)
    if name == "required":
        return list(dict.fromkeys([*mine, *other]))
    if name in {"properties", "$defs", "definitions"}:
        shared = {key: {"allOf": [mine[key], other[key]]} for key in mine.keys() & other.keys()}
        return {**mine, **other, **shared}
    if name == "type":
        found = [kind for kind in _kinds(mine) if kind in _kinds(other)]
        if found:
            return found
    if name == "enum":
        return [value for value in mine if value in other]
    reason = f"two different values of {name!r} cannot be merged"
    raise SchemaUnsupported(reason, where)


def _kinds(value: str | list[str]) -> list[str]:
    kinds = [value] if isinstance(value, str) else list(value)
    return [*kinds, "integer"] if "number" in kinds and "integer" not in kinds else kinds


def apart(first: Schema, second: Schema) -> bool:
    """Whether certainly no value is valid for both schemas; False if one is or this cannot be decided.

    Only types, constants, and properties that both schemas require are compared.
    """
    mine, other = _values(first), _values(second)
    if mine is not None and other is not None:
        return not mine & other
    if not set(_kinds(_types(first))) & set(_kinds(_types(second))):
        return True
    if _types(first) != ["object"] or _types(second) != ["object"]:
        return False
    both = set(first.get("required", ())) & set(second.get("required", ()))
    pairs = [
        (first.get("properties", {}).get(name), second.get("properties", {}).get(name))
        for name in both
    ]
    return any(
        isinstance(one, dict)
        and isinstance(two, dict)
        and "$ref" not in {*one, *two}
        and apart(one, two)
        for one, two in pairs
    )


def _types(schema: Schema) -> list[str]:
    found = schema.get("type", list(TYPES))
    return [found] if isinstance(found, str) else found


def _values(schema: Schema) -> set[tuple[str, str]] | None:
    if "const" in schema:
        return {_key(schema["const"])}
    if "enum" in schema:
        return {_key(value) for value in schema["enum"]}
    return None


def _key(value: Any) -> tuple[str, str]:  # noqa: ANN401 (any JSON value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return ("number", repr(float(value))) if number else (type(value).__name__, repr(value))
