"""Schemas enforced on the real model, at a high temperature and with a seed, so that a missing rule shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mongars.core.clock import SystemClock
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.llama_cpp.chat_body import chat_body
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.engines.llama_cpp.literal_prompt import CHAT_COMPLETIONS, ask
from mongars.engines.llama_cpp.supervisor import LlamaCppSupervisor
from mongars.engines.structured import stream_checked
from mongars.protocol.schema.keywords import CONVERTER
from mongars.protocol.schema.validation import violation
from protocol.schema_cases import ENFORCED, Schema, mapping, text
from support import read_stream, started

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.core.generation import Completion
    from mongars.engines.engine import Engine

pytestmark = pytest.mark.model

HOT = 1.6
PERSON = mapping(
    {
        "name": text(),
        "age": {"type": "integer"},
        "email": {"anyOf": [text(), {"type": "null"}], "default": None},
        "born": text(format="date"),
        "role": {"enum": ["admin", "editor", "guest"]},
        "tags": {"type": "array", "items": text()},
        "address": {"$ref": "#/$defs/Address"},
    },
    required=["name", "age", "born", "role", "tags", "address"],
    additionalProperties=False,
    **{"$defs": {"Address": mapping({"street": text(), "city": text()})}},
)
"""A schema as pydantic makes it from a class."""


STEPS = mapping(
    {
        "steps": {"type": "array", "items": mapping({"explanation": text(), "output": text()})},
        "final_answer": text(),
    }
)
"""A list of objects, which a small model continues until the context is full."""


def asked(words: str, form: dict[str, Any], **sampling: Any) -> GenerationRequest:
    return GenerationRequest(
        messages=(Message(role="user", content=words),),
        request_id="req-test",
        sampling=Sampling(response_format=form, **sampling),
    )


def shaped(schema: Schema) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


async def answer(engine: Engine, request: GenerationRequest) -> Completion:
    completion, _ = await read_stream(engine, stream_checked(engine, request))
    return completion


def engine_of(base_model: Path) -> LlamaCppEngine:
    config = LlamaCppConfig(model_path=base_model, model_name="m", slots=1, context_tokens=2048)
    return LlamaCppEngine(config, clock=SystemClock())


async def test_every_keyword_holds_at_a_high_temperature(base_model: Path) -> None:
    """At a high temperature, finished answers follow the schema, for every enforced keyword; less than half are cut."""
    cut = []
    async with started(engine_of(base_model)) as engine:
        for name, schema in ENFORCED.items():
            request = asked("Write.", shaped(schema), max_tokens=24, temperature=HOT, seed=3)
            completion = await answer(engine, request)
            if completion.finish_reason == "length":
                cut.append(name)
                continue
            assert violation(completion.text, schema) is None, (name, completion.text)
    assert len(cut) < len(ENFORCED) // 2, cut


@pytest.mark.parametrize("temperature", [0.0, 0.8], ids=["greedy", "usual"])
async def test_ordinary_schemas_finish(base_model: Path, temperature: float) -> None:
    """The small model finishes an answer to a typical schema before the token limit."""
    async with started(engine_of(base_model)) as engine:
        for seed in range(1 if temperature == 0 else 4):
            request = asked(
                "Describe Ada, who is 36 years old and lives in London, as JSON.",
                shaped(PERSON),
                max_tokens=1000,
                temperature=temperature,
                seed=seed,
            )
            completion = await answer(engine, request)
            assert completion.finish_reason == "stop", completion.text


CONVERTED: dict[str, Schema] = {
    "object": mapping(
        {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"type": "null"}},
        required=["a", "c"],
        additionalProperties=False,
    ),
    "values": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "lengths": text(minLength=2, maxLength=5),
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "ones": {"type": "array", "items": {"const": 1}, "maxItems": 2, "uniqueItems": False},
    "enum": {"enum": ["a", 1, None]},
    "typed-enum": {"type": "string", "enum": ["red", "green"]},
    "any-of": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "types": {"type": ["boolean", "null"]},
    "reference": {"$ref": "#/$defs/A", "$defs": {"A": mapping({"x": {"enum": [1, 2]}})}},
    "older-reference": {
        "type": "array",
        "items": {"$ref": "#/definitions/A"},
        "minItems": 1,
        "maxItems": 2,
        "definitions": {"A": {"type": "boolean"}},
    },
}
"""Schemas with the keywords that llama.cpp's own conversion enforces, which Ollama uses as well."""


async def test_what_is_left_to_the_conversion_holds(base_model: Path) -> None:
    """At a high temperature, finished answers follow the schemas that llama.cpp itself converts."""
    used = {name for schema in CONVERTED.values() for name in names_in(schema)}
    assert set(CONVERTER) <= used
    config = LlamaCppConfig(model_path=base_model, model_name="m", slots=1, context_tokens=2048)
    child = LlamaCppSupervisor(config, clock=SystemClock())
    await child.start()
    try:
        for name, schema in CONVERTED.items():
            request = asked("Write.", shaped(schema), max_tokens=120, temperature=HOT, seed=3)
            body = {**chat_body(request, model="m", reasons=True), "stream": False}
            body.pop("stream_options")
            found = (await ask(child, CHAT_COMPLETIONS, body))["choices"][0]
            if found["finish_reason"] == "stop":
                written = found["message"]["content"]
                assert violation(written, schema) is None, (name, written)
    finally:
        await child.aclose()


def names_in(value: object) -> list[str]:
    """Every key of a schema and of the schemas in it."""
    if isinstance(value, dict):
        return [*value, *(name for part in value.values() for name in names_in(part))]
    return []


async def test_a_model_that_repeats_itself_comes_to_an_end(base_model: Path) -> None:
    """A list that the small model would repeat until the context is full comes to an end."""
    async with started(engine_of(base_model)) as engine:
        request = asked(
            "Give me data about a person.", shaped(STEPS), max_tokens=1200, temperature=0.0
        )
        completion = await answer(engine, request)
    assert completion.finish_reason == "stop", completion.text
