"""What `response_format` may be: checked at the border, before any engine reads it.

Engines turn a schema into a grammar. Some ignore what they do not understand, so that an answer
comes without the promised shape; some unfold a hundred bytes of pattern until their memory is
full. Neither is left to them.
"""

from __future__ import annotations

import math
import re
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator

DEEPEST_SCHEMA = 64
MOST_REPEATS = 2000
KINDS = ("text", "json_object", "json_schema")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_BOUND = re.compile(r"(\d+)\}")


def check_response_format(value: dict[str, Any]) -> None:
    """Raise `ValueError`, saying where and what, if no engine should see this."""
    if _deeper_than(value, DEEPEST_SCHEMA):
        message = f"is nested deeper than {DEEPEST_SCHEMA} levels"
        raise ValueError(message)
    if _repeats(value) > MOST_REPEATS:
        message = f"asks for more than {MOST_REPEATS} repetitions"
        raise ValueError(message)
    if value.get("type") not in KINDS:
        message = f"type must be one of {', '.join(KINDS)}, got {value.get('type')!r}"
        raise ValueError(message)
    if value["type"] == "json_schema":
        _check_schema(value)


def schema_of(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON Schema a format asks for: `{}` for any object, None for free text."""
    if value is None or value.get("type") not in {"json_object", "json_schema"}:
        return None
    named = value.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema if isinstance(schema, dict) else {}


def _check_schema(value: dict[str, Any]) -> None:
    named = value.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        message = "json_schema.schema must be an object"
        raise ValueError(message)  # noqa: TRY004 (pydantic turns a ValueError into its message)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path)) or "the schema"
        message = f"is no JSON Schema: {where}: {error.message[:200]}"
        raise ValueError(message) from error


def _deeper_than(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(part, levels - 1) for part in inner)


def _repeats(value: object) -> int:
    """The most repetitions any one part of a schema asks for.

    Engines unfold repetitions into grammar rules, and nested ones multiply.
    """
    if isinstance(value, list):
        return max(map(_repeats, value), default=0)
    if not isinstance(value, dict):
        return 0
    found = [_repeats(part) for part in value.values()]
    found += [value[key] for key in _COUNTS if isinstance(value.get(key), int)]
    if isinstance(pattern := value.get("pattern"), str):
        bounds = [int(number) for number in _BOUND.findall(pattern)]
        found.append(math.prod(max(1, bound) for bound in bounds))
    return max(found, default=0)
