"""A client generated from `/openapi.json`."""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path

import httpx  # noqa: TID251 (what the generated client uses, too)
import pytest
from program import run_program

CLIENT = (
    11,
    "openapi-python-client (generated from `/openapi.json`)",
    lambda: version("openapi-python-client"),
)
PACKAGE = "mongars_client"


@pytest.fixture(scope="module")
def generated(url, key, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    server = url.removesuffix("/v1")
    found = httpx.get(f"{server}/openapi.json", headers={"Authorization": f"Bearer {key}"})
    (folder / "openapi.json").write_text(found.text)
    command = [str(Path(sys.executable).with_name("openapi-python-client")), "generate"]
    command += ["--path", "openapi.json", "--meta", "none", "--output-path", PACKAGE]
    made = run_program(command, folder=folder)
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    yield importlib.import_module(f"{PACKAGE}.client").AuthenticatedClient(
        base_url=server, token=key, timeout=httpx.Timeout(60)
    )
    sys.path.remove(str(folder))


def part(name):
    return importlib.import_module(f"{PACKAGE}.{name}")


def asked(**more):
    request = part("models.chat_completion_request").ChatCompletionRequest
    hello = {"role": "user", "content": "Say hello."}
    return request.from_dict({"model": "mongars", "messages": [hello], "max_tokens": 16, **more})


def test_chat(generated):
    answer = part("api.openai.chat_completions").sync(client=generated, body=asked())
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


def test_models(generated):
    found = part("api.openai.models").sync(client=generated)
    assert "mongars" in [model.id for model in found.data]


def test_errors_are_read(generated):
    call = part("api.openai.chat_completions").sync_detailed
    answer = call(client=generated, body=asked(model="gpt-9"))
    assert (answer.status_code, answer.parsed.error.code) == (404, "model_not_found")


def test_conversation(generated):
    message = part("models.conversation_message").ConversationMessage(message="Say hello.")
    reply = part("api.conversation.chat").sync(client=generated, body=message)
    assert reply.response
    turns = part("api.conversation.history").sync(
        client=generated, session_id=reply.session_id, limit=5
    )
    assert [turn.query for turn in turns] == ["Say hello."]


def test_readiness(generated):
    assert part("api.health.ready").sync(client=generated).status in {"ready", "degraded"}
