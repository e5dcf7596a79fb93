"""Validation of `response_format`, before it is sent to an engine.

Engines convert a schema to a grammar. Some ignore keywords they do not know, so that the answer does not have the
requested form. Some expand a pattern of a hundred bytes until they run out of time or memory, which stops all
other requests as well. So schemas are checked and limited here. The limits are far above what forms and
records need.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import orjson
from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator

KINDS = ("text", "json_object", "json_schema")
MOST_PARTS = 500
"""Maximum number of objects and lists in a format; checking each takes about a quarter of a millisecond."""
MOST_VALUES = 5000
"""Maximum number of entries in all lists of a format together, such as constants and names."""
DEEPEST = 32
LONGEST_TEXT = 4096
"""Maximum length in characters of one string in a format, such as a description."""
LONGEST_PATTERN = 256
MOST_REPEATS = 2000
"""Maximum number of repetitions of one part, such as `maxItems`."""
MOST_PRODUCT = 1_000_000
"""Maximum product of the repetitions of nested lists."""
MOST_NESTED_REPEATS = 100
"""Maximum product of nested repetitions in a pattern; `*` and `+` count as eight."""
OPEN_REPEAT = 8
KEPT_SCHEMAS = 64
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_QUANTIFIER = re.compile(r"[*+?]|\{(\d*)(?:,(\d*))?\}")


def check_response_format(value: dict[str, Any]) -> None:
    """Check a request's `response_format`.

    Raises `ValueError`, naming the part and the reason, if it is invalid or exceeds a limit on its size or repetitions.
    """
    _Size().add(value, DEEPEST)
    if _repeats(value) > MOST_PRODUCT:
        message = f"asks for more than {MOST_PRODUCT} repetitions in nested lists"
        raise ValueError(message)
    if value.get("type") not in KINDS:
        message = f"type must be one of {', '.join(KINDS)}, got {value.get('type')!r}"
        raise ValueError(message)
    if value["type"] == "json_schema" or "schema" in value:
        _check_schema(value)


def schema_of(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON Schema in a request's `response_format`: `{}` if any JSON object will do, None for free text."""
    if value is None or value.get("type") not in {"json_object", "json_schema"}:
        return None
    # llama.cpp and other servers also accept a schema with the type `json_object`.
    named = value.get("json_schema") if value["type"] == "json_schema" else value
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema if isinstance(schema, dict) else {}


def _check_schema(value: dict[str, Any]) -> None:
    named = value.get("json_schema") if value["type"] == "json_schema" else value
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        message = "json_schema.schema must be an object"
        raise ValueError(message)  # noqa: TRY004 (pydantic turns a ValueError into its message)
    _check_against_standard(orjson.dumps(schema))


@lru_cache(maxsize=KEPT_SCHEMAS)
def _check_against_standard(encoded: bytes) -> None:
    """Check a JSON Schema, as encoded JSON, against the standard, 2020-12; results are cached.

    Raises `ValueError` if it is invalid or cannot be processed.
    """
    schema = orjson.loads(encoded)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path)) or "the schema"
        message = f"is no JSON Schema: {where}: {error.message[:200]}"
        raise ValueError(message) from error
    except (RecursionError, OverflowError, re.error) as error:
        message = f"is no usable JSON Schema: {type(error).__name__}"
        raise ValueError(message) from error


class _Size:
    """Counts the objects, lists and list entries in a response format, to limit them."""

    def __init__(self) -> None:
        self._parts = 0
        self._values = 0

    def add(self, value: object, levels: int) -> None:
        """Count a value and everything inside it.

        `levels`: how many more levels of nested objects and lists are allowed. Raises `ValueError` if there are more,
        if a text is longer than `LONGEST_TEXT` (4096 characters), or if more objects and lists (500) or list entries
        (5000) than allowed have been counted.
        """
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            message = f"holds a text of more than {LONGEST_TEXT} characters"
            raise ValueError(message)
        if not isinstance(value, dict | list):
            return
        if levels == 0:
            message = f"is nested deeper than {DEEPEST} levels"
            raise ValueError(message)
        self._parts += 1
        if isinstance(value, list):
            self._values += len(value)
        if self._parts > MOST_PARTS or self._values > MOST_VALUES:
            message = f"has more than {MOST_PARTS} parts, or {MOST_VALUES} values in lists"
            raise ValueError(message)
        for part in value.values() if isinstance(value, dict) else value:
            self.add(part, levels - 1)


def _repeats(value: object) -> float:
    """The highest number of repetitions that a part of a schema permits, such as by `maxItems` or in a `pattern`.

    `value`: the schema or any part of it; 0 if it sets no such number. For lists inside lists, the numbers are
    multiplied. A float, since a schema may give numbers such as `3.0`. Raises `ValueError` if one part of the schema
    alone permits more than `MOST_REPEATS` (2000).
    """
    if isinstance(value, list):
        return max(map(_repeats, value), default=0)
    if not isinstance(value, dict):
        return 0
    counts = [value[key] for key in _COUNTS if _is_number(value.get(key))]
    own = max([abs(count) for count in counts], default=0)
    if isinstance(pattern := value.get("pattern"), str):
        own = max(own, pattern_repeats(pattern))
    if own > MOST_REPEATS:
        message = f"asks for more than {MOST_REPEATS} repetitions of one part"
        raise ValueError(message)
    inner = max(map(_repeats, value.values()), default=0)
    return max(own, inner, own * inner)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def pattern_repeats(pattern: str) -> float:
    """The highest number of repetitions of any part of a regular expression; those of nested groups are multiplied.

    A repetition without a maximum (`*`, `+`, `{3,}`) counts as 8, or as its minimum if that is more; without
    repetitions the result is 1. It is a whole number, as a float because the pattern may name a very large one. Raises
    `ValueError` for a pattern of more than 256 characters or with more than 100 nested repetitions, because matching
    it would block the engine for all requests.
    """
    if len(pattern) > LONGEST_PATTERN:
        message = f"holds a pattern of more than {LONGEST_PATTERN} characters"
        raise ValueError(message)
    # For each open group: the most repetitions inside it so far.
    groups = [1.0]
    closed, most, index = 1.0, 1.0, 0
    while index < len(pattern):
        sign = pattern[index]
        index += 1
        if sign == "\\":
            index, closed = index + 1, 1.0
        elif sign == "[":
            index, closed = _class_end(pattern, index), 1.0
        elif sign == "(":
            groups.append(1.0)
        elif sign == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] = max(groups[-1], closed)
        elif found := _QUANTIFIER.match(pattern, index - 1):
            index = found.end()
            times = _times(found)
            nested = closed * times
            if closed > 1 and times > 1 and nested > MOST_NESTED_REPEATS:
                message = f"holds a pattern with more than {MOST_NESTED_REPEATS} nested repetitions"
                raise ValueError(message)
            groups[-1] = max(groups[-1], nested)
            most, closed = max(most, nested), 1.0
        else:
            closed = 1.0
    return most


def _times(found: re.Match[str]) -> float:
    if found[0] == "?":
        return 1
    if found[0] in {"*", "+"}:
        return OPEN_REPEAT
    low, high = float(found[1] or 0), found[2]
    if high:
        return float(high)
    return low if "," not in found[0] else max(low, OPEN_REPEAT)


def _class_end(pattern: str, index: int) -> int:
    """The index in `pattern` after the character class, such as `[a-z]`, whose `[` is the character before `index`."""
    start = index
    while index < len(pattern) and (pattern[index] != "]" or index == start):
        index += 2 if pattern[index] == "\\" else 1
    return index + 1
