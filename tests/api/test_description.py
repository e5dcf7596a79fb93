"""`/openapi.json`: what generated clients and fuzzers are made from."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema.validators import Draft202012Validator

from mongars.engines.fake_embedder import FakeEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from api_world import Api

CHAT = "/v1/chat/completions"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)
CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", 502, 503, 504]
"""
"""504: the client's own time-out is one of the headers that are tried."""
SECONDS = 120


@pytest.fixture
async def description(api: Api) -> dict[str, Any]:
    async with api.http.get(api.url + "/openapi.json", headers=api.auth) as response:
        found: dict[str, Any] = await response.json()
        return found


async def test_every_operation_is_described(description: dict[str, Any]) -> None:
    """Each has a name of its own, a body where it takes one, and a schema for every JSON response."""
    names = []
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            names.append(operation["operationId"])
            assert ("requestBody" in operation) == (method == "post" and "endpoints" not in path)
            for status, response in operation["responses"].items():
                schema = response["content"].get("application/json", {"schema": 1})["schema"]
                assert schema, f"{method} {path} {status}"
    assert len(names) == len(set(names))


async def test_references_lead_somewhere(description: dict[str, Any]) -> None:
    """A generator stops at a reference to a schema that is not there."""

    def references(part: object) -> set[str]:
        if isinstance(part, list):
            return set().union(*map(references, part))
        if not isinstance(part, dict):
            return set()
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(references, part.values()))

    names = {ref.removeprefix("#/components/schemas/") for ref in references(description)}
    assert names
    assert names <= set(description["components"]["schemas"])


async def test_the_key_and_the_media_types(description: dict[str, Any]) -> None:
    """A client knows that it needs a bearer key, and that a chat may answer with events."""
    (scheme,) = description["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert description["security"] == [{"bearer": []}]
    chat = description["paths"][CHAT]["post"]
    assert "security" not in chat
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(description["paths"]["/token"]["post"]["requestBody"]["content"]) == {
        "application/x-www-form-urlencoded"
    }
    assert set(description["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {
        "text/plain"
    }
    assert description["paths"]["/healthz"]["get"]["security"] == []


async def test_answers_have_the_described_shape(api: Api, description: dict[str, Any]) -> None:
    """A whole answer with everything asked for is what the description says, and so is an error."""
    question = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
    for body, status in (
        (question, "200"),
        ({**question, "n": 2, "logprobs": True, "top_logprobs": 2}, "200"),
        ({**question, "temperature": 9}, "400"),
        ({**question, "model": "other"}, "404"),
    ):
        async with api.http.post(api.url + CHAT, json=body, headers=api.auth) as response:
            assert str(response.status) == status
            responses = description["paths"][CHAT]["post"]["responses"]
            schema = responses[status]["content"]["application/json"]["schema"]
            whole = {**schema, "components": description["components"]}
            Draft202012Validator(whole).validate(await response.json())


@pytest.mark.slow
async def test_schemathesis_finds_nothing(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], tmp_path: Path
) -> None:
    """No generated request is answered with 500, or with a status, type or shape not described."""
    async with start_api(embedder=FakeEmbedder(), embedding_model="fake-embedding") as api:
        await check_with_schemathesis(api, tmp_path)


async def check_with_schemathesis(api: Api, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {api.admin_key}", "--checks", ",".join(CHECKS)),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "25"),
        *("--seed", "20250101", "--generation-deterministic", "--request-timeout", "20"),
        "--no-color",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
