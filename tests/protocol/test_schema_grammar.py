"""Every text that a schema's grammar allows is valid for the schema; a schema that cannot be enforced is refused."""

from __future__ import annotations

import socket
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

import pytest

from mongars.core.errors import ParameterUnsupported
from mongars.protocol.schema.enforced import check_conversion, grammar_of
from mongars.protocol.schema.keywords import CONVERTER, GRAMMAR
from mongars.protocol.schema.matching import matches
from mongars.protocol.schema.validation import violation
from protocol.schema_cases import ENFORCED, REFUSED, Schema, mapping, text
from protocol.written_by_grammar import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

DRAWN = 60


def asked(schema: Schema) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}


def grammar(schema: Schema) -> str:
    found = grammar_of(asked(schema))
    assert found is not None
    return found


@pytest.mark.parametrize("name", ENFORCED)
def test_every_text_of_the_grammar_is_valid(name: str) -> None:
    """Of the texts that the grammar allows, 60 drawn at random follow the schema."""
    schema, random = ENFORCED[name], Random(7)  # noqa: S311 (texts to try)
    writer = Writer(grammar(schema), random)
    for _ in range(DRAWN):
        written = writer.text()
        assert violation(written, schema) is None, written


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused_by_its_name(name: str) -> None:
    """The error for a schema that cannot be enforced has the parameter and the keyword."""
    schema, says = REFUSED[name]
    with pytest.raises(ParameterUnsupported, match="response_format") as refusal:
        grammar_of(asked(schema))
    assert refusal.value.param == "response_format"
    assert says in str(refusal.value)


def test_every_listed_keyword_has_a_case() -> None:
    """Every keyword in the lists of enforced keywords is in a test case."""
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
    """Schemas that Ollama's and vLLM's own conversions do not enforce are refused for these engines."""
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
    """Schemas with keywords that every conversion enforces are accepted."""
    check_conversion(asked(schema))


def test_typical_schema_costs_little() -> None:
    """The grammar of a typical schema is made in less than 0.1 s."""
    schema = mapping({f"field{index}": text(maxLength=50) for index in range(12)})
    begun = perf_counter()
    grammar(schema)
    assert perf_counter() - begun < 0.1


@pytest.mark.parametrize(
    "named", [{}, {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "urn:x"}]
)
def test_no_pattern_makes_a_check_endless(named: Schema) -> None:
    """A pattern that would take a backtracking search years is checked within 5 s."""
    schema = {**named, "type": "string", "enum": ["a" * 200 + "q", "aa"], "pattern": "^(a+)+$"}
    begun = perf_counter()
    assert grammar(schema).startswith('root ::= "\\"aa\\""')
    own = {**named, "type": "string", "pattern": "^((a+)+z|a{40}q)$"}
    assert violation(f'"{"a" * 40}q"', own) is None
    assert violation(f'"{"a" * 400}b"', own) is not None
    assert perf_counter() - begun < 5


def test_decimals_are_multiples_whatever_draft_a_schema_names() -> None:
    """19.99 is a multiple of 0.01, also for a schema that names draft 7, as Zod's do."""
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    assert violation("19.99", {**draft, "type": "number", "multipleOf": 0.01}) is None
    assert violation('{"$id": "x"}', {**draft, "const": {"$id": "x"}}) is None


def test_references_are_not_fetched() -> None:
    """A reference to another host in a schema is not fetched."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        part = {"$ref": f"http://127.0.0.1:{port}/secret"}
        with pytest.raises(ParameterUnsupported):
            grammar_of(asked({"enum": [{"a": 1}], "properties": {"a": part}}))
        assert violation('{"a": 1}', {"properties": {"a": part}}) is not None
        with pytest.raises(TimeoutError):
            server.accept()


def test_references_without_end_are_refused() -> None:
    """References in a circle are refused with an error, without endless recursion."""
    loop = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "properties": {"a": {"$ref": "#/$defs/a"}}}
    with pytest.raises(ParameterUnsupported):
        grammar_of(asked({**loop, "enum": [{"a": 1}]}))
    assert violation('{"a": 1}', loop) is not None


def _chain(link: Callable[[Schema], Schema], last: Schema) -> Schema:
    """A schema of thirty definitions, each of which refers to the next one; `link` makes a part from a reference."""
    parts = {f"a{n}": link({"$ref": f"#/$defs/a{n + 1}"}) for n in range(30)}
    return {"$defs": {**parts, "a30": last}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(
    "link",
    [
        lambda ref: {
            "type": "object",
            "properties": {key: {**ref, "type": "object"} for key in "xy"},
        },
        lambda ref: {"anyOf": [{**ref, "type": "string"}, {**ref, "minLength": 1}]},
        lambda ref: {"allOf": [ref, ref, ref]},
    ],
    ids=["properties", "anyOf", "allOf"],
)
def test_references_that_multiply_are_refused(link: Callable[[Schema], Schema]) -> None:
    """A small schema that would expand to millions of parts is refused within 5 s."""
    begun = perf_counter()
    with pytest.raises(ParameterUnsupported):
        grammar_of(asked(_chain(link, {"type": "object"})))
    assert perf_counter() - begun < 5


def test_the_check_of_an_answer_ends() -> None:
    """The check of an answer against a schema with a billion paths ends within 10 s."""
    schema = _chain(lambda ref: {"anyOf": [ref, ref]}, {"type": "number"})
    begun = perf_counter()
    found = violation('"text"', {**schema, "$ref": "#/$defs/a0"})
    assert found is not None
    assert "$ref" in found
    assert perf_counter() - begun < 10


def test_long_constants_beside_a_pattern_are_refused() -> None:
    """Long constants beside a pattern are refused, since checking each of them would take seconds."""
    schema = {"enum": [f"{'a' * 90}{n}" for n in range(100)], "pattern": "a"}
    with pytest.raises(ParameterUnsupported, match="4000 characters"):
        grammar_of(asked(schema))


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^\d{3}-\d{4}$", "555-1234", True),
        (r"^\d{3}-\d{4}$", "555-12345", False),
        (r"b+", "aabbaa", True),
        (r"^(?:ab|a)(bc|c)?$", "abc", True),
        (r"^[^\W_]+\.[a-z]{2,}$", "mon1.gars", True),
        (r"^[^\W_]+\.[a-z]{2,}$", "mon_1.gars", False),
        (r"^(a|b)*?c$", "ababc", True),
        (r"^.{2,3}$", "abcd", False),
        (r"^(a?){3}$", "", True),
        (r"^a$", "a\n", False),
        (r"(?=a)a", "a", False),
    ],
)
def test_patterns_are_matched(pattern: str, text: str, *, found: bool) -> None:
    """Patterns match as in usual regular expressions; a pattern with unsupported syntax matches nothing."""
    assert matches(pattern, text) is found
