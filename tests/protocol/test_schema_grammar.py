"""Every text that a schema's grammar can write is valid for the schema; what cannot be kept is refused."""

from __future__ import annotations

from random import Random
from time import perf_counter

import pytest

from mongars.core.errors import ParameterUnsupported
from mongars.protocol.schema.enforced import check_conversion, grammar_of
from mongars.protocol.schema.keywords import CONVERTER, GRAMMAR
from mongars.protocol.schema.validation import violation
from protocol.schema_cases import ENFORCED, REFUSED, Schema, mapping, text
from protocol.written_by_grammar import Writer

DRAWN = 60


def asked(schema: Schema) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}


def grammar(schema: Schema) -> str:
    found = grammar_of(asked(schema))
    assert found is not None
    return found


@pytest.mark.parametrize("name", ENFORCED)
def test_every_text_of_the_grammar_is_valid(name: str) -> None:
    """Whatever the model chooses among what the grammar lets through follows the schema."""
    schema, random = ENFORCED[name], Random(7)  # noqa: S311 (texts to try)
    writer = Writer(grammar(schema), random)
    for _ in range(DRAWN):
        written = writer.text()
        assert violation(written, schema) is None, written


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused_by_its_name(name: str) -> None:
    """400, the parameter, and where in the schema the keyword stands."""
    schema, says = REFUSED[name]
    with pytest.raises(ParameterUnsupported, match="response_format") as refusal:
        grammar_of(asked(schema))
    assert refusal.value.param == "response_format"
    assert says in str(refusal.value)


def test_every_listed_keyword_has_a_case() -> None:
    """The list of what is enforced claims nothing that no test writes."""
    found = set(_names(list(ENFORCED.values())))
    assert set(GRAMMAR) <= found
    assert set(CONVERTER) <= set(GRAMMAR)


def _names(value: object) -> list[str]:
    if isinstance(value, list):
        return [name for part in value for name in _names(part)]
    if isinstance(value, dict):
        return [*value, *(name for part in value.values() for name in _names(part))]
    return []


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (text(pattern="^a$"), "'pattern'"),
        (text(format="email"), "'format'"),
        ({"type": "integer", "minimum": 1}, "'minimum'"),
        ({"type": "number", "maximum": 1.5}, "'maximum'"),
        ({"oneOf": [{"const": 1}]}, "'oneOf'"),
        ({"not": {}}, "'not'"),
        ({"properties": {"a": True}}, "needs the type 'object'"),
        (mapping({}, required=["a"]), "'a' is not in 'properties'"),
        ({"anyOf": [{"type": "null"}], "type": "string"}, "beside other keywords"),
        ({"type": "array", "items": mapping({"a": text(pattern="b")})}, "items.properties.a"),
    ],
)
def test_engines_with_their_own_conversion_keep_less(schema: Schema, says: str) -> None:
    """Ollama and vLLM are sent only what they are known to enforce."""
    with pytest.raises(ParameterUnsupported) as refusal:
        check_conversion(asked(schema))
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "schema",
    [
        mapping({"a": text(maxLength=3), "b": {"type": "integer"}}, additionalProperties=False),
        {"$ref": "#/$defs/A", "$defs": {"A": {"anyOf": [{"enum": ["x"]}, {"type": "null"}]}}},
        {"type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 2},
        {},
    ],
)
def test_ordinary_schemas_are_left_to_the_engine(schema: Schema) -> None:
    """What every conversion knows passes."""
    check_conversion(asked(schema))


def test_typical_schema_costs_little() -> None:
    """Far less than a token: it is converted once, and then found again."""
    schema = mapping({f"field{index}": text(maxLength=50) for index in range(12)})
    begun = perf_counter()
    grammar(schema)
    assert perf_counter() - begun < 0.1
