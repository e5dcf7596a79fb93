"""Validation of a complete text against a schema, in bounded time."""

from __future__ import annotations

from contextvars import ContextVar
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import orjson
from jsonschema.exceptions import ValidationError
from jsonschema.validators import Draft202012Validator, extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from mongars.protocol.schema.formats import checker
from mongars.protocol.schema.keywords import Schema, demands
from mongars.protocol.schema.matching import matches
from mongars.protocol.schema.unsupported import SchemaUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jsonschema.protocols import Validator

MOST_REFERENCES = 20_000
"""Maximum number of references followed in one validation, which takes about half a second."""
_REFERENCES_LEFT: ContextVar[list[int]] = ContextVar("references left")
_IDENTITY = ("$schema", "$id")
_VALUES = ("const", "enum")


def _multiple_of(_: object, step: float, instance: object, __: object) -> Iterator[ValidationError]:
    """Check `multipleOf` in decimal arithmetic, in which 19.99 is a multiple of 0.01, unlike in binary fractions.

    Yields an error if the number `instance` is not a multiple of `step`. The signature is the one that jsonschema
    calls.
    """
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    try:
        fits = Decimal(str(instance)) % Decimal(str(step)) == 0
    except InvalidOperation:
        fits = False
    if not fits:
        yield ValidationError(f"{instance!r} is not a multiple of {step}")


def _pattern(_: object, pattern: str, instance: object, __: object) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    own: Validator, patterns: Schema, instance: object, _: object
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, part in patterns.items():
        for name, value in instance.items():
            if matches(pattern, name):
                yield from own.descend(value, part, path=name, schema_path=pattern)


def _additional_properties(  # noqa: PLR0917 (what the library calls)
    own: Validator, part: object, instance: object, schema: Schema
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    patterns = schema.get("patternProperties", {})
    for name in instance.keys() - schema.get("properties", {}).keys():
        if not any(matches(pattern, name) for pattern in patterns):
            yield from own.descend(instance[name], part, path=name)


def _reference(  # noqa: PLR0917 (what the library calls)
    own: Validator, pointer: str, instance: object, schema: Schema
) -> Iterator[ValidationError]:
    left = _REFERENCES_LEFT.get()
    left[0] -= 1
    if left[0] < 0:
        reason = f"following '$ref' takes more than {MOST_REFERENCES} steps"
        raise SchemaUnsupported(reason)
    yield from Draft202012Validator.VALIDATORS["$ref"](own, pointer, instance, schema)


_Checked = extend(
    Draft202012Validator,
    {
        "$ref": _reference,
        "multipleOf": _multiple_of,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    },
)


def errors_of(values: Iterable[object], schema: Schema, *, root: Schema) -> list[str | None]:
    """For each value, how it violates `schema`, as text; None for a valid value.

    `schema` is a part of the schema `root`, to which its references lead. References outside of `root` are not
    followed, since the library would fetch them over HTTP. Raises `SchemaUnsupported` if references are circular or
    more than `MOST_REFERENCES` are followed.
    """
    checks = _Checked(_unnamed(root), format_checker=checker, registry=Registry())
    own = checks.evolve(schema=_unnamed(schema))
    token = _REFERENCES_LEFT.set([MOST_REFERENCES])
    try:
        return [_first_error(own, value) for value in values]
    except RecursionError as error:
        reason = "'$ref' leads back to itself without end"
        raise SchemaUnsupported(reason) from error
    finally:
        _REFERENCES_LEFT.reset(token)


def _first_error(own: Validator, value: object) -> str | None:
    try:
        found = next(own.iter_errors(value), None)
    except Unresolvable as error:
        return f"'$ref': {error.ref!r} is not found in the schema"
    if found is None:
        return None
    place = ".".join(map(str, found.absolute_path)) or "the answer"
    return f"{place} violates {found.validator!r}"


def _unnamed(schema: Any) -> Any:  # noqa: ANN401 (any part of a schema)
    """A copy of a JSON Schema without `$schema` and `$id`, which would select other rules and redirect references."""
    if isinstance(schema, list):
        return [_unnamed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: part if name in _VALUES else _unnamed(part)
        for name, part in schema.items()
        if not (name in _IDENTITY and isinstance(part, str))
    }


def violation(text: str, schema: Schema) -> str | None:
    """How a text violates a JSON Schema, as a description; None if it is valid JSON and valid for the schema.

    `{}` means any JSON object. A schema that cannot be checked counts as violated.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"it is not JSON: {error}"
    if not demands(schema):
        return None if isinstance(value, dict) else "it is not a JSON object"
    try:
        return errors_of([value], schema, root=schema)[0]
    except SchemaUnsupported as error:
        return str(error)
