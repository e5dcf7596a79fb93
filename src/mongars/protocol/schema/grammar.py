"""Converts a JSON Schema to a grammar in llama.cpp's notation (GBNF).

Every text that the grammar generates is valid for the schema. It excludes some valid values, so that
every answer ends: white space is limited, and strings, lists and objects with free
names have a maximum length where the schema sets none. A keyword that cannot be enforced is refused by name.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import orjson

from mongars.protocol.schema.formats import FREE, PATTERNS
from mongars.protocol.schema.keywords import (
    GRAMMAR,
    Schema,
    SchemaOrBool,
    SchemaPath,
    demands,
    is_annotation,
)
from mongars.protocol.schema.merge import TYPES, apart, merged
from mongars.protocol.schema.numbers import BOUNDS, number_grammar
from mongars.protocol.schema.objects import Member, object_rule
from mongars.protocol.schema.pattern import Piece, pattern_piece
from mongars.protocol.schema.rules import (
    MOST_CHARACTERS,
    MOST_ITEMS,
    Rules,
)
from mongars.protocol.schema.unsupported import SchemaUnsupported
from mongars.protocol.schema.validation import errors_of

DEEPEST = 64
LONGEST_PLACE = 8
"""Maximum number of parts of a schema path in an error message."""
MOST_STEPS = 5000
"""Maximum number of schema parts converted or merged; a `$ref` beside other keywords is converted at each use."""
MOST_CHECKED = 4000
"""Maximum size in bytes of constants that are checked against keywords with a slow check (`_SLOW`)."""
_SLOW = (b'"pattern', b'"uniqueItems"')
_OF_TYPES = {
    "object": {"properties", "required", "additionalProperties", "patternProperties",
               "propertyNames", "minProperties", "maxProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
    "string": {"pattern", "format", "minLength", "maxLength"},
    "number": BOUNDS,
}  # fmt: skip


def schema_grammar(schema: Schema) -> str:
    """The grammar (GBNF) that generates only JSON texts valid for a JSON Schema; `{}` means any JSON object.

    Raises `SchemaUnsupported`, naming the part of the schema that cannot be enforced.
    """
    writer = _Writer(schema)
    root = writer.value(schema, ()) if demands(schema) else writer.rules.any_object()
    return writer.rules.text(root)


class _Writer:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._refs: dict[str, str] = {}
        self._open: list[str] = []
        """References being resolved before any output: a reference to one of these would never end."""
        self._depth = 0
        self._steps = 0
        self.rules = Rules()

    def value(self, schema: SchemaOrBool, where: SchemaPath) -> str:
        """A grammar expression for JSON values valid for `schema`; `where`: its path in the whole schema, for errors.

        Raises `SchemaUnsupported` if that cannot be enforced.
        """
        self._step(where)
        if schema is False:
            reason = "the schema 'false' allows no value"
            raise SchemaUnsupported(reason, where)
        if schema is True or not demands(schema):
            return self.rules.any_value()
        if "$ref" in schema and len(demands(schema)) == 1:
            return self._reference(schema["$ref"], where)
        self._depth += 1
        if self._depth > DEEPEST:
            reason = "is nested too deep"
            raise SchemaUnsupported(reason, where)
        try:
            return self._flat_value(self._flat(schema, where), where)
        finally:
            self._depth -= 1

    def _step(self, where: SchemaPath) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            reason = f"writing it out takes more than {MOST_STEPS} steps; use each '$ref' alone"
            raise SchemaUnsupported(reason, where[:LONGEST_PLACE])

    def _reference(self, pointer: str, where: SchemaPath) -> str:
        if pointer in self._open:
            reason = f"'$ref': {pointer!r} leads to itself without a value between"
            raise SchemaUnsupported(reason, where)
        if pointer not in self._refs:
            self._refs[pointer] = name = self.rules.name("ref")
            self._open.append(pointer)
            self.rules.set(name, self.value(self._target(pointer, where), (*where, pointer)))
            self._open.pop()
        return self._refs[pointer]

    def _target(self, pointer: str, where: SchemaPath) -> Schema:
        found: Any = self._root
        try:
            if not pointer.startswith("#"):
                raise KeyError(pointer)  # noqa: TRY301 (one place makes the message)
            for part in unquote(pointer[1:]).split("/")[1:] if pointer != "#" else []:
                key = part.replace("~1", "/").replace("~0", "~")
                found = found[int(key)] if isinstance(found, list) else found[key]
            if pointer != "#" and not pointer.startswith("#/"):
                raise KeyError(pointer)  # noqa: TRY301
        except (KeyError, IndexError, ValueError, TypeError) as exc:
            reason = f"'$ref': {pointer!r} is not found in the schema"
            raise SchemaUnsupported(reason, where) from exc
        if not isinstance(found, dict | bool):
            reason = f"'$ref': {pointer!r} is no schema"
            raise SchemaUnsupported(reason, where)
        return found if isinstance(found, dict) else {"allOf": [found]}

    def _flat(self, schema: Schema, where: SchemaPath, levels: int = 16) -> Schema:
        """A schema equivalent to `schema` without `$ref` and `allOf`, which are merged with the other keywords.

        `where`: its path in the whole schema, for errors. `levels`: how many more `$ref` and `allOf` may be followed.
        Raises `SchemaUnsupported` for a keyword that cannot be enforced or merged.
        """
        self._step(where)
        if levels == 0:
            reason = "'$ref' and 'allOf' lead into each other without end"
            raise SchemaUnsupported(reason, where)
        for name in schema:
            if name not in GRAMMAR and not is_annotation(name):
                reason = f"the keyword {name!r} cannot be enforced"
                raise SchemaUnsupported(reason, where)
        own = {name: part for name, part in schema.items() if name not in {"$ref", "allOf"}}
        parts = [self._target(schema["$ref"], where)] if "$ref" in schema else []
        for part in [*parts, *schema.get("allOf", ())]:
            if part is False:
                self.value(part, where)
            if part is not True:
                own = merged(own, self._flat(part, where, levels - 1), where)
        return own

    def _flat_value(self, schema: Schema, where: SchemaPath) -> str:
        if "const" in schema or "enum" in schema:
            return self._constants(schema, where)
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return self._alternatives(name, schema, where)
        kinds = schema.get("type") or _implied(schema)
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        if "number" in kinds and "integer" in kinds:
            kinds.remove("integer")
        self._open, before = [], self._open
        found = [self._typed(kind, schema, where) for kind in kinds]
        self._open = before
        return found[0] if len(found) == 1 else f"({' | '.join(found)})"

    def _constants(self, schema: Schema, where: SchemaPath) -> str:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        rest = {n: v for n, v in demands(schema).items() if n not in {"$defs", "definitions"}}
        if len(rest) > 1:
            values = self._valid(values, rest, where)
        if not values:
            reason = "no value of 'enum' or 'const' is valid for the other keywords"
            raise SchemaUnsupported(reason, where)
        return self.rules.constants(values)

    def _check_constants(self, values: list[Any], where: SchemaPath) -> None:
        slow = any(name in orjson.dumps(self._root) for name in _SLOW)
        if slow and len(orjson.dumps(values)) > MOST_CHECKED:
            reason = (
                f"'enum' or 'const' of more than {MOST_CHECKED} characters cannot be checked against"
                " 'pattern' or 'uniqueItems'; leave out the values that do not follow them"
            )
            raise SchemaUnsupported(reason, where)

    def _valid(self, values: list[Any], schema: Schema, where: SchemaPath) -> list[Any]:
        if schema.get("type") == "string" and len(schema) == 2:  # noqa: PLR2004 (and enum)
            return [value for value in values if isinstance(value, str)]
        if any(name in schema for name in ("anyOf", "oneOf")):
            reason = "'enum' or 'const' beside 'anyOf' or 'oneOf' cannot be enforced"
            raise SchemaUnsupported(reason, where)
        self._check_constants(values, where)
        errors = errors_of(values, schema, root=self._root)
        return [value for value, error in zip(values, errors, strict=True) if error is None]

    def _alternatives(self, name: str, schema: Schema, where: SchemaPath) -> str:
        rest = {key: value for key, value in schema.items() if key != name}
        if isinstance(found := schema.get("discriminator"), dict) and found.get("propertyName"):
            rest["required"] = [*rest.get("required", ()), found["propertyName"]]
        has_rest = any(key not in {"$defs", "definitions"} for key in demands(rest))
        parts, flat = [], []
        for index, part in enumerate(schema[name]):
            here = (*where, name, str(index))
            if part is False:
                continue
            if name == "anyOf" and not has_rest:
                parts.append(self.value(part, here))
                continue
            own = {} if part is True else self._flat(part, here)
            flat.append(merged(rest, own, here) if has_rest else own)
            parts.append(self.value(flat[-1], here))
        if name == "oneOf":
            _check_apart(flat, where)
        return f"({' | '.join(parts)})"

    def _typed(self, kind: str, schema: Schema, where: SchemaPath) -> str:
        try:
            return self._of_type(kind, schema, where)
        except SchemaUnsupported:
            raise
        except ValueError as error:
            names = sorted(demands(schema).keys() & _OF_TYPES.get(_group(kind), set()))
            reason = f"{', '.join(map(repr, names))}: {error}"
            raise SchemaUnsupported(reason, where) from error

    def _of_type(self, kind: str, schema: Schema, where: SchemaPath) -> str:
        match kind:
            case "null":
                return '"null"'
            case "boolean":
                return '("true" | "false")'
            case "string":
                return self.rules.shared(self._text(schema))
            case "integer" | "number":
                _check_number_format(schema)
                return self.rules.shared(number_grammar(schema, whole=kind == "integer"))
            case "array":
                return self._list(schema, where)
            case "object":
                return self._object(schema, where)
        reason = f"{kind!r} is no type"
        raise ValueError(reason)

    def _text(self, schema: Schema) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if most is not None and most < least:
            message = "no length is allowed"
            raise ValueError(message)
        piece = _piece(schema, int(least), None if most is None else int(most))
        if piece is not None:
            return f'"\\"" {piece.text} "\\""'
        most = max(MOST_CHARACTERS, least) if most is None else most
        return self.rules.string(int(least), int(most))

    def _list(self, schema: Schema, where: SchemaPath) -> str:
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        if schema.get("uniqueItems") and (most is None or most > 1):
            message = "items that differ cannot be enforced; use an enum, or check them yourself"
            raise ValueError(message)
        first = schema.get("prefixItems", [])
        heads = [self.value(p, (*where, "prefixItems", str(i))) for i, p in enumerate(first)]
        rest = schema.get("items", True)
        limit = max(MOST_ITEMS, least, len(heads)) if most is None else int(most)
        if rest is False:
            limit = min(limit, len(heads))
        if limit < least:
            message = "no number of items is allowed"
            raise ValueError(message)
        item = self.value(rest, (*where, "items")) if limit > len(heads) else ""
        return self.rules.sequence(heads, item, least=least, most=limit)

    def _object(self, schema: Schema, where: SchemaPath) -> str:
        fixed = dict(schema.get("properties", {}))
        required = list(dict.fromkeys(schema.get("required", ())))
        others = schema.get("additionalProperties", True)
        patterns = schema.get("patternProperties", {})
        if patterns and (fixed or required):
            message = "'patternProperties' beside named properties cannot be enforced"
            raise ValueError(message)
        for name in required:
            fixed.setdefault(name, others)
        if not fixed:
            return self._free_object(schema, where)
        if "propertyNames" in schema:
            message = "'propertyNames' beside named properties cannot be enforced"
            raise ValueError(message)
        if schema.get("minProperties", 0) > len(required):
            message = "needs as many names in 'required'"
            raise ValueError(message)
        members = [
            Member(name, self.value(part, (*where, "properties", name)), name in required)
            for name, part in fixed.items()
            if part is not False or name in required
        ]
        if schema.get("maxProperties", len(members)) < len(members):
            message = "is below the number of 'properties'"
            raise ValueError(message)
        return object_rule(self.rules, members)

    def _free_object(self, schema: Schema, where: SchemaPath) -> str:
        least = schema.get("minProperties", 0)
        most = int(schema.get("maxProperties", MOST_ITEMS))
        if least > 1 or most < least:
            message = "only 'minProperties' of 0 and 1 can be enforced where names are free"
            raise ValueError(message)
        patterns = schema.get("patternProperties", {})
        others = schema.get("additionalProperties", True)
        key = self.rules.key()
        if len(patterns) > 1 or (patterns and "propertyNames" in schema):
            message = "only one pattern of names can be enforced"
            raise ValueError(message)
        if patterns:
            (pattern, others), *_ = patterns.items()
            key = self.rules.shared(f'"\\"" {pattern_piece(pattern).text} "\\""')
        elif "propertyNames" in schema:
            key = self._key(schema["propertyNames"], where)
        if others is False:
            if least:
                message = "no property is allowed"
                raise ValueError(message)
            return '"{}"'
        value = self.value(others, (*where, "additionalProperties"))
        return self.rules.entries(f'{key} ": " {value}', int(least), most)

    def _key(self, names: SchemaOrBool, where: SchemaPath) -> str:
        if names is True or names == {}:
            return self.rules.key()
        here = (*where, "propertyNames")
        flat = {} if names is False else self._flat(names, here)
        if flat.get("type", "string") != "string" or {"anyOf", "oneOf"} & flat.keys():
            message = "'propertyNames' must describe texts"
            raise ValueError(message)
        return self.value({**flat, "type": "string"} if names is not False else names, here)


def _piece(schema: Schema, least: int, most: int | None) -> Piece | None:
    """The expression between the quotes of a string with a `pattern` or `format`; None if the schema has neither.

    A `format` that restricts nothing counts as absent. `least`, `most`: number of characters; `most` None: no limit.
    Raises `ValueError` if the pattern, the format, or both together or with the lengths, cannot be enforced.
    """
    pattern, form = schema.get("pattern"), schema.get("format")
    if form in FREE:
        form = None
    if form is not None and form not in PATTERNS:
        message = f"the format {form!r} is not supported; use a pattern"
        raise ValueError(message)
    if form is not None and pattern is not None:
        message = "a format beside a pattern cannot be enforced"
        raise ValueError(message)
    if form is not None:
        pattern = f"^({PATTERNS[form]})$"
    return None if pattern is None else pattern_piece(pattern, least=least, most=most)


def _check_number_format(schema: Schema) -> None:
    if schema.get("format") not in {None, "int64", "float", "double", "decimal"}:
        message = f"the format {schema['format']!r} is not supported for numbers; use bounds"
        raise ValueError(message)


def _check_apart(parts: list[Schema], where: SchemaPath) -> None:
    for index, one in enumerate(parts):
        for other in parts[index + 1 :]:
            if not apart(one, other):
                reason = (
                    "'oneOf': its parts may hold at once, which cannot be excluded; use 'anyOf'"
                )
                raise SchemaUnsupported(reason, where)


def _implied(schema: Schema) -> str | list[str]:
    """The JSON type that a schema without `type` describes, by its other keywords; all types if they name none."""
    for kind, names in _OF_TYPES.items():
        if names & schema.keys():
            return kind
    return list(TYPES)


def _group(kind: str) -> str:
    return "number" if kind == "integer" else kind
