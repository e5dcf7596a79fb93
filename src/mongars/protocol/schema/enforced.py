"""Converts a `response_format` to what an engine enforces, or refuses it with the name of the keyword."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from mongars.core.errors import ParameterUnsupported
from mongars.protocol.response_format import schema_of
from mongars.protocol.schema.converted import check_converted
from mongars.protocol.schema.grammar import schema_grammar
from mongars.protocol.schema.unsupported import SchemaUnsupported

KEPT_GRAMMARS = 32

ResponseFormat = dict[str, Any] | None


def grammar_of(response_format: ResponseFormat) -> str | None:
    """The grammar (GBNF) with which llama.cpp enforces a request's `response_format`; None for free text.

    Raises `ParameterUnsupported`, naming the keyword, if a part of the schema cannot be enforced.
    """
    schema = schema_of(response_format)
    if schema is None:
        return None
    try:
        return _grammar(orjson.dumps(schema))
    except SchemaUnsupported as error:
        raise _refusal(error) from error


def check_conversion(response_format: ResponseFormat) -> None:
    """Check a request's `response_format` for an engine that converts schemas itself, such as Ollama and vLLM.

    None (free text) is accepted. Raises `ParameterUnsupported`, naming the keyword, if such an engine may not enforce a
    part of the schema.
    """
    schema = schema_of(response_format)
    if schema is None:
        return
    try:
        check_converted(schema)
    except SchemaUnsupported as error:
        raise _refusal(error) from error


@lru_cache(maxsize=KEPT_GRAMMARS)
def _grammar(schema: bytes) -> str:
    return schema_grammar(orjson.loads(schema))


def _refusal(error: SchemaUnsupported) -> ParameterUnsupported:
    detail = f"response_format: in the schema, {error}"
    return ParameterUnsupported(detail, param="response_format")
