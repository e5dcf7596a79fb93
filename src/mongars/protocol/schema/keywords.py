"""The JSON Schema keywords that each kind of engine enforces; all others are refused."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
SchemaOrBool = Schema | bool
SchemaPath = tuple[str, ...]
"""The keys that lead from the root of a schema to one of its parts."""

ANNOTATIONS = frozenset(
    {
        "$comment",
        "$id",
        "$schema",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
"""Keywords that do not restrict which values are valid."""

GRAMMAR = {
    "$defs": "by `$ref`",
    "$ref": "within the schema, recursive ones too",
    "additionalProperties": "beside `properties`, further ones are not written",
    "allOf": "where the parts can be merged into one schema",
    "anyOf": "",
    "const": "",
    "definitions": "by `$ref`",
    "enum": "",
    "exclusiveMaximum": "as `maximum`",
    "exclusiveMinimum": "as `minimum`",
    "format": "",
    "items": "",
    "maxItems": "up to 2000",
    "maxLength": "up to 2000 beside no pattern",
    "maxProperties": "of objects with free names, or not below the number of `properties`",
    "maximum": "up to 15 digits, 6 of them after the point",
    "minItems": "up to 2000",
    "minLength": "",
    "minProperties": "0 or 1 of objects with free names, or not above the number of required ones",
    "minimum": "as `maximum`",
    "multipleOf": "a power of ten up to 1, a divisor of 1000 without bounds but 0, or at most 500 multiples within bounds",
    "oneOf": "where no value can be valid for two of them: types, constants or a discriminator differ",
    "pattern": "without look-around, back-references, `\\b`, `\\p`, anchors inside",
    "patternProperties": "one pattern, without `properties`",
    "prefixItems": "",
    "properties": "written in this order",
    "propertyNames": "of objects with free names",
    "required": "",
    "type": "",
    "uniqueItems": "false",
}
"""Keywords that llama.cpp enforces by a grammar of `schema.grammar`, each with its limits."""

CONVERTER = {
    "$defs": "by `$ref`",
    "$ref": "within the schema, beside annotations only",
    "additionalProperties": "",
    "anyOf": "beside annotations only",
    "const": "",
    "definitions": "by `$ref`",
    "enum": "",
    "items": "one schema",
    "maxItems": "up to 2000",
    "maxLength": "up to 2000",
    "minItems": "up to 2000",
    "minLength": "up to 2000",
    "properties": "",
    "required": "names in `properties`",
    "type": "",
    "uniqueItems": "false",
}
"""Keywords that Ollama, vLLM and llama.cpp with reasoning models enforce, each with its limits."""


def is_annotation(name: str) -> bool:
    """Whether the schema keyword is an annotation, which has no effect on which values are valid.

    These are keywords such as `title`, and all that begin with `x-`.
    """
    return name in ANNOTATIONS or name.startswith("x-")


def demands(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy of the schema with only the keywords that restrict values, without annotations such as `title`."""
    return {name: value for name, value in schema.items() if not is_annotation(name)}
