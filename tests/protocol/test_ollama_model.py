"""How the responses of an Ollama server are read, for the engine and for the provider."""

from __future__ import annotations

import orjson
import pytest

from mongars.core.errors import (
    ContextLengthExceeded,
    InferenceFailed,
    InvalidAnswer,
    MongarsError,
    NotReady,
    Overloaded,
)
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.protocol.ollama import COMMON
from mongars.protocol.ollama_model import OllamaModelApi

MODEL = OllamaModelApi("fake", server="host:11434")


def listed(models: object) -> bytes:
    return orjson.dumps({"models": models})


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        pytest.param(404, "model 'fake' not found", NotReady, id="no-model"),
        pytest.param(429, "slow down", Overloaded, id="429"),
        pytest.param(503, "server busy", Overloaded, id="503"),
        pytest.param(400, "input exceeds the context window", ContextLengthExceeded, id="too-long"),
        pytest.param(400, "does not support chat", InferenceFailed, id="400"),
        pytest.param(500, "out of memory", InferenceFailed, id="500"),
    ],
)
def test_a_refusal_becomes_an_error_of_ours(
    status: int, text: str, error: type[MongarsError]
) -> None:
    """Each error response becomes the matching error; `NotReady` and `Overloaded` have the server and `retry_after`."""
    found = MODEL.refusal(status, orjson.dumps({"error": text}), retry_after=3.0)
    assert type(found) is error
    if isinstance(found, NotReady | Overloaded):
        assert found.retry_after == 3.0
        assert "host:11434" in str(found)


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b"{}"])
def test_a_refusal_without_a_message_is_one_all_the_same(data: bytes) -> None:
    """An error response without a readable message, for example from a proxy, becomes `InferenceFailed`."""
    assert isinstance(MODEL.refusal(502, data, retry_after=None), InferenceFailed)


@pytest.mark.parametrize("name", ["fake", "fake:latest"])
def test_a_listed_model_is_found(name: str) -> None:
    """A model is found in the server's list with and without its tag."""
    MODEL.check_tags(200, listed([3, {"name": "other"}, {"name": name}, None]))


@pytest.mark.parametrize("models", [[], None, [{"name": "fake:8b"}]])
def test_a_model_that_is_not_listed_comes_with_the_command_that_gets_it(models: object) -> None:
    """If the model is not listed, the error contains the command that fetches it."""
    with pytest.raises(NotReady, match="ollama pull fake"):
        MODEL.check_tags(200, listed(models))


@pytest.mark.parametrize(
    ("status", "data"),
    [(200, b"{}"), (200, b"<html>"), (200, listed(3)), (500, listed([{"name": "fake"}]))],
)
def test_another_server_at_the_address_is_recognised(status: int, data: bytes) -> None:
    """If the server at the address is not Ollama, the error says so."""
    with pytest.raises(InvalidAnswer, match="not an Ollama"):
        MODEL.check_tags(status, data)


@pytest.mark.parametrize("window", [None, 4096])
def test_the_context_window_is_sent_if_one_is_given(window: int | None) -> None:
    """`num_ctx` is sent if the context window is set; otherwise the server uses its default."""
    request = GenerationRequest(
        messages=(Message(role="user", content="Hi"),), request_id="r", sampling=Sampling(seed=1)
    )
    body = orjson.loads(MODEL.chat_body(request, markers=COMMON, context_tokens=window))
    assert body["options"] == {"seed": 1} | ({} if window is None else {"num_ctx": window})
