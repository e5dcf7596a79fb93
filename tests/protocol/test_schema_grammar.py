"""Every text that a schema's grammar can write is valid for the schema; what cannot be kept is refused."""

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


@pytest.mark.parametrize(
    "named", [{}, {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "urn:x"}]
)
def test_no_pattern_makes_a_check_endless(named: Schema) -> None:
    """A pattern whose search would take years is checked at once, and the server answers others."""
    schema = {**named, "type": "string", "enum": ["a" * 200 + "q", "aa"], "pattern": "^(a+)+$"}
    begun = perf_counter()
    assert grammar(schema).startswith('root ::= "\\"aa\\""')
    own = {**named, "type": "string", "pattern": "^((a+)+z|a{40}q)$"}
    assert violation(f'"{"a" * 40}q"', own) is None
    assert violation(f'"{"a" * 400}b"', own) is not None
    assert perf_counter() - begun < 5


def test_decimals_are_multiples_whatever_draft_a_schema_names() -> None:
    """Zod's schemas name draft 7; 19.99 is a multiple of 0.01 for those, too."""
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    assert violation("19.99", {**draft, "type": "number", "multipleOf": 0.01}) is None
    assert violation('{"$id": "x"}', {**draft, "const": {"$id": "x"}}) is None


def test_references_are_not_fetched() -> None:
    """A schema cannot make the server call another host."""
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
    """400, not a crash."""
    loop = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "properties": {"a": {"$ref": "#/$defs/a"}}}
    with pytest.raises(ParameterUnsupported):
        grammar_of(asked({**loop, "enum": [{"a": 1}]}))
    assert violation('{"a": 1}', loop) is not None


def _chain(link: Callable[[Schema], Schema], last: Schema) -> Schema:
    """Thirty definitions, each of which refers to the next one twice."""
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
    """A small schema that unfolds into millions of parts is 400 at once."""
    begun = perf_counter()
    with pytest.raises(ParameterUnsupported):
        grammar_of(asked(_chain(link, {"type": "object"})))
    assert perf_counter() - begun < 5


def test_the_check_of_an_answer_ends() -> None:
    """Branches that share references would be tried a billion times."""
    schema = _chain(lambda ref: {"anyOf": [ref, ref]}, {"type": "number"})
    begun = perf_counter()
    found = violation('"text"', {**schema, "$ref": "#/$defs/a0"})
    assert found is not None
    assert "$ref" in found
    assert perf_counter() - begun < 10


def test_long_constants_beside_a_pattern_are_refused() -> None:
    """The check of each constant takes its time, and a request must not take seconds of it."""
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
    """As every engine of patterns reads them; what none of ours is given matches nothing."""
    assert matches(pattern, text) is found
