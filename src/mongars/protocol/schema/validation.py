"""Whether a finished text is valid for a schema."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import orjson
from jsonschema.exceptions import ValidationError
from jsonschema.validators import Draft202012Validator, extend

from mongars.protocol.schema.formats import checker
from mongars.protocol.schema.keywords import demands

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]


def _multiple_of(_: object, step: float, instance: object, __: object) -> Iterator[ValidationError]:
    """In decimals: 19.99 is a multiple of 0.01, which it is not in binary fractions."""
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    try:
        fits = Decimal(str(instance)) % Decimal(str(step)) == 0
    except InvalidOperation:
        fits = False
    if not fits:
        yield ValidationError(f"{instance!r} is not a multiple of {step}")


_Validator = extend(Draft202012Validator, {"multipleOf": _multiple_of})


def validator(schema: Schema) -> Draft202012Validator:
    """What checks values, formats too."""
    return _Validator(schema, format_checker=checker)


def violation(text: str, schema: Schema) -> str | None:
    """What of a text violates the schema; None if nothing does. `{}` means any object."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"it is not JSON: {error}"
    if not demands(schema):
        return None if isinstance(value, dict) else "it is not a JSON object"
    found = next(validator(schema).iter_errors(value), None)
    if found is None:
        return None
    place = ".".join(map(str, found.absolute_path)) or "the answer"
    return f"{place} violates {found.validator!r}"
