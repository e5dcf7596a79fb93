"""Schemas that can be enforced, and schemas that are refused, for tests with and without a model."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def text(**keywords: Any) -> Schema:
    return {"type": "string", **keywords}


def mapping(properties: Schema, *, required: list[str] | None = None, **keywords: Any) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, **keywords}


NODE = mapping(
    {"name": text(maxLength=8), "children": {"type": "array", "items": {"$ref": "#/$defs/N"}}},
    required=["name"],
)

ENFORCED: dict[str, Schema] = {
    "phone": text(pattern=r"^\d{3}-\d{4}$"),
    "mail": text(pattern=r"^[\w.]+@[\w.]+$"),
    "contains": text(pattern="abc"),
    "begins": text(pattern="^ab"),
    "ends": text(pattern="yz$"),
    "either": text(pattern="^(yes|no)$|^maybe"),
    "escapes": text(pattern=r'^["\\/]{3}\t?\.$'),
    "negated": text(pattern=r"^[^a-z\s]{1,5}$"),
    "not-digit": text(pattern=r"^\D\S\W$"),
    "not-in-words": text(pattern=r"^[^\w]{2}$"),
    "lazy-named": text(pattern=r"^(?P<a>a+?)(?:b|c){2,}$"),
    "hex": text(pattern=r"^[\x41-\x43\u00e9]{2}$"),
    "no-underscore-words": text(pattern=r"^[^\W_]{3,9}$"),
    "no-non-digits": text(pattern=r"^[^\D]{2,9}$"),
    "pattern-and-lengths": text(pattern="^[a-z]+$", minLength=3, maxLength=6),
    "free-pattern-and-lengths": text(pattern="ab", minLength=5, maxLength=9),
    "lengths": text(minLength=2, maxLength=5),
    "longest": text(maxLength=2000),
    "free-text": text(),
    "purpose": text(format="password", maxLength=9),
    **{
        f"format-{name}": text(format=name)
        for name in (
            "date",
            "date-time",
            "duration",
            "email",
            "hostname",
            "ipv4",
            "ipv6",
            "time",
            "uri",
            "uuid",
        )
    },
    "age": {"type": "integer", "minimum": 18, "maximum": 120},
    "at-least": {"type": "integer", "minimum": 1000},
    "below": {"type": "integer", "exclusiveMaximum": -3},
    "free-integer": {"type": "integer"},
    "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "narrow": {"type": "number", "minimum": 0.5, "maximum": 0.75},
    "signed": {"type": "number", "minimum": -1.25, "exclusiveMaximum": 12.5},
    "free-number": {"type": "number"},
    "price": {"type": "number", "minimum": 0, "multipleOf": 0.01},
    "fives": {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 5},
    "open-fives": {"type": "integer", "minimum": 0, "multipleOf": 5},
    "even": {"type": "integer", "multipleOf": 2},
    "hundreds": {"type": "integer", "exclusiveMinimum": 0, "multipleOf": 100},
    "tens": {"type": "number", "minimum": 0, "multipleOf": 10},
    "quarters": {"type": "number", "minimum": -1, "maximum": 1, "multipleOf": 0.25},
    "either-number": {"type": ["integer", "number", "null"], "maximum": 7},
    "constants": {"enum": ["a", 1, None, {"b": [True]}]},
    "typed-enum": {"type": "integer", "enum": [1, 2, "three", 40], "maximum": 10},
    "constant": {"const": 'say "hi"\n'},
    "large-enum": {"enum": [f"value number {index}" for index in range(501)]},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "long-texts": {"type": "array", "items": text(maxLength=2000), "maxItems": 100},
    "two-thousand": {"type": "array", "items": {"const": 1}, "maxItems": 2000},
    "none-or-one": {"type": "array", "items": {"const": 1}, "maxItems": 1, "uniqueItems": True},
    "tuple": {
        "type": "array",
        "prefixItems": [text(maxLength=2), {"type": "null"}],
        "items": False,
    },
    "tuple-and-more": {
        "type": "array",
        "prefixItems": [{"const": 1}, {"const": 2}, {"const": 3}],
        "items": {"type": "boolean"},
        "minItems": 2,
        "maxItems": 5,
    },
    "optional": mapping(
        {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}, "d": {"const": 4}},
        required=["c"],
        additionalProperties=False,
    ),
    "all-optional": mapping({"a": {"const": 1}, 'b"': {"const": 2}}, required=[], maxProperties=2),
    "required-only": {"type": "object", "required": ["x"], "minProperties": 1},
    "values": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
    "patterned-names": {
        "type": "object",
        "patternProperties": {"^a[0-9]$": {"type": "boolean"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 2,
    },
    "chosen-names": {
        "type": "object",
        "propertyNames": {"enum": ["red", "green"]},
        "additionalProperties": {"type": "integer"},
    },
    "any-of": {"anyOf": [text(maxLength=3), {"type": "null"}]},
    "any-of-beside": mapping(
        {"a": {"const": 1}, "b": {"const": 2}},
        required=[],
        anyOf=[{"required": ["a"]}, {"required": ["b"]}],
    ),
    "one-of": {"oneOf": [{"type": "integer", "minimum": 5, "maximum": 9}, text(maxLength=3)]},
    "tagged": {
        "oneOf": [
            mapping({"kind": {"const": "cat"}, "lives": {"type": "integer"}}, required=["lives"]),
            mapping({"kind": {"const": "dog"}, "lives": {"type": "integer"}}, required=[]),
        ],
        "discriminator": {"propertyName": "kind"},
    },
    "all-of": {
        "allOf": [mapping({"a": {"type": "integer", "minimum": 3}}), mapping({"b": {"const": 2}})],
        "properties": {"a": {"type": "integer", "maximum": 6}},
    },
    "reference": {"$ref": "#/$defs/A", "$defs": {"A": mapping({"x": {"enum": [1, 2]}})}},
    "older-reference": {
        "type": "array",
        "items": {"$ref": "#/definitions/A", "description": "one"},
        "maxItems": 2,
        "definitions": {"A": {"type": "boolean"}},
    },
    "recursive": {"$ref": "#/$defs/N", "$defs": {"N": NODE}},
    "anything": mapping({"a": True, "b": {}}, title="t", default={}, examples=[1], deprecated=True),
    "any-object": {},
}

REFUSED: dict[str, tuple[Schema, str]] = {
    "not": ({"not": {"type": "string"}}, "'not'"),
    "nested-not": (mapping({"a": {"not": {}}}), "properties.a: the keyword 'not'"),
    "reference-to-itself": ({"$ref": "#"}, "'$ref'"),
    "alternative-to-itself": ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "'$ref'"),
    "look-ahead": (text(pattern="^(?=a)b$"), "look-ahead"),
    "look-behind": (text(pattern="(?<!a)b"), "look-behind"),
    "back-reference": (text(pattern=r"^(a)\1$"), "back-reference"),
    "word-boundary": (text(pattern=r"\bfoo"), "word boundary"),
    "unicode-property": (text(pattern=r"^.x(y$|z)"), "anchor"),
    "format": (text(format="iri"), "'iri'"),
    "format-and-pattern": (text(format="date", pattern="^2"), "beside a pattern"),
    "pattern-too-long": (text(pattern="^(ab|cde)f*$", minLength=9), "minLength"),
    "unique": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "contains": ({"type": "array", "contains": {"const": 1}}, "'contains'"),
    "conditional": ({"if": {}, "then": {}, "else": {}}, "'if'"),
    "dependent": ({"type": "object", "dependentRequired": {"a": ["b"]}}, "'dependentRequired'"),
    "unevaluated": ({"type": "object", "unevaluatedProperties": False}, "'unevaluatedProperties'"),
    "multiple-unbounded": ({"type": "integer", "multipleOf": 7}, "multipleOf"),
    "no-number": ({"type": "integer", "minimum": 5, "exclusiveMaximum": 5}, "no number"),
    "too-exact": ({"type": "number", "minimum": 1e-9}, "6 digits"),
    "overlap": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "use 'anyOf'"),
    "elsewhere": ({"$ref": "https://example.com/s.json"}, "'$ref'"),
    "circle": ({"$ref": "#/$defs/A", "minLength": 1, "$defs": {"A": {"allOf": [{"$ref": "#/$defs/A"}]}}}, "without end"),
    "false": (mapping({"a": False}), "properties.a: the schema 'false'"),
    "many-names": ({"type": "object", "minProperties": 2}, "minProperties"),
    "part-forbids": (
        {"allOf": [mapping({"a": True}, additionalProperties=False), mapping({"b": True})]},
        "additionalProperties",
    ),
    "huge": (mapping({f"f{i}": text(maxLength=2000 - i) for i in range(30)}), "in all"),
    "misspelt": (text(maxlength=3), "'maxlength'"),
}  # fmt: skip
