"""Checks schemas that an engine converts itself: accepts only keywords that the engines are known to enforce."""

from __future__ import annotations

from typing import Any

from mongars.protocol.schema.keywords import (
    CONVERTER,
    SchemaOrBool,
    SchemaPath,
    demands,
    is_annotation,
)
from mongars.protocol.schema.unsupported import SchemaUnsupported

_TYPED = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "items": "array",
    "minItems": "array",
    "maxItems": "array",
    "minLength": "string",
    "maxLength": "string",
}
_DEFINITIONS = ("$defs", "definitions")


def check_converted(schema: dict[str, Any]) -> None:
    """Check a schema for an engine that converts schemas itself, such as Ollama and vLLM.

    Raises `SchemaUnsupported` if it has a keyword that the engine may ignore. `{}` means any JSON object, and is
    accepted.
    """
    if demands(schema):
        _check(schema, ())
    for name in _DEFINITIONS:
        for key, part in schema.get(name, {}).items():
            _check(part, (name, key))


def _check(schema: SchemaOrBool, where: SchemaPath) -> None:
    if isinstance(schema, bool):
        if not schema:
            _refuse("the schema 'false' cannot be enforced by this engine", where)
        return
    for name in schema:
        if name not in CONVERTER and not is_annotation(name):
            _refuse(f"the keyword {name!r} cannot be enforced by this engine", where)
    own = {name for name in demands(schema) if name not in _DEFINITIONS}
    for name in ("$ref", "anyOf"):
        if name in own and len(own) > 1:
            _refuse(f"{name!r} beside other keywords cannot be enforced by this engine", where)
    if "$ref" in own and not str(schema["$ref"]).startswith("#"):
        _refuse("a '$ref' to somewhere else cannot be enforced by this engine", where)
    if {"enum", "const"} & own:
        if len(own - {"type"}) > 1:
            _refuse("'enum' or 'const' beside other keywords cannot be enforced", where)
        return
    _check_types(schema, own, where)
    _check_parts(schema, where)


def _check_types(schema: dict[str, Any], own: set[str], where: SchemaPath) -> None:
    kinds = schema.get("type", ())
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    for name in sorted(own & _TYPED.keys()):
        if kinds != {_TYPED[name]}:
            _refuse(f"{name!r} needs the type {_TYPED[name]!r} alone", where)
    if schema.get("uniqueItems"):
        _refuse("'uniqueItems' cannot be enforced by this engine", where)
    for name in schema.get("required", ()):
        if name not in schema.get("properties", {}):
            _refuse(f"'required': {name!r} is not in 'properties'", where)


def _check_parts(schema: dict[str, Any], where: SchemaPath) -> None:
    for key, part in schema.get("properties", {}).items():
        _check(part, (*where, "properties", key))
    for index, part in enumerate(schema.get("anyOf", ())):
        _check(part, (*where, "anyOf", str(index)))
    if "items" in schema:
        _check(schema["items"], (*where, "items"))
    others = schema.get("additionalProperties", True)
    if isinstance(others, dict):
        _check(others, (*where, "additionalProperties"))


def _refuse(reason: str, where: SchemaPath) -> None:
    raise SchemaUnsupported(reason, where)
