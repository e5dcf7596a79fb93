from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from ray_harness import name, read_into

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import (
    AdapterUnavailable,
    ConfigurationError,
    ContextLengthExceeded,
    DeadlineExceeded,
    EndpointUnreachable,
    GenerationInterrupted,
    InferenceFailed,
    NotReady,
    Overloaded,
    WorldError,
)
from mongars.core.generation import (
    BASE_ADAPTER,
    Chunk,
    GenerationRequest,
    Message,
    Sampling,
    Usage,
)
from mongars.inference.config import InferenceConfig
from mongars.inference.http.http_pool import HttpPool
from mongars.inference.ollama.provider import Ollama
from mongars.inference.provider import Attempts
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.ollama import chat_request, same_model
from mongars.protocol.openai import logprob_entries
from mongars.protocol.sse import EventSplitter, encode_event
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.faults import TEXT, Body, Echo, Fault, FaultyResponse, Reset, Silence, Status
from mongars.testing.inference import question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.inference.provider import ProviderStream

CLOCK = SystemClock()


@asynccontextmanager
async def ollama(host: str, *, model: str = "fake", **settings: object) -> AsyncIterator[Ollama]:
    config = InferenceConfig(
        endpoints=(), use_ray=False, ollama_host=host, ollama_model=model, **settings
    )
    provider = Ollama(config, HttpPool(config), clock=CLOCK)
    try:
        yield provider
    finally:
        await provider.aclose()


@asynccontextmanager
async def opened(provider: Ollama, text: str = "Say the words.") -> AsyncIterator[ProviderStream]:
    deadline = Deadline.after(CLOCK, 30)
    async with provider.open(question(text), deadline, Attempts(CLOCK)) as stream:
        yield stream


async def ask(provider: Ollama, text: str = "Say the words.") -> str:
    async with opened(provider, text) as stream:
        return "".join([chunk.text async for chunk in stream.chunks])


@pytest.mark.parametrize("block", [None, 1, 5])
async def test_an_answer_is_read_whatever_the_network_does(block: int | None) -> None:
    """Text, token counts and finish reason are read however the network splits the lines."""
    said = FaultyResponse(text="Déjà vu 😀 fin.", block=block)
    async with FakeOllama(said) as server, ollama(server.base) as provider:
        async with opened(provider) as stream:
            accumulated = AnswerAccumulator()
            await read_into(accumulated, stream)
        completion = accumulated.completion(stream.origin)
        assert completion.text == said.text
        assert completion.usage == Usage(prompt_tokens=7, completion_tokens=4)
        assert completion.finish_reason == "stop"


async def test_ollama_answers_as_the_degraded_base_model() -> None:
    """Ollama's answers are marked as degraded and as those of the base model."""
    async with FakeOllama() as server, ollama(server.base) as provider, opened(provider) as stream:
        origin = stream.origin
    assert (origin.model, origin.engine) == ("fake", "ollama")
    assert (origin.adapter_version, origin.degraded) == (BASE_ADAPTER, True)


async def test_a_pinned_adapter_is_refused_and_the_base_model_is_not() -> None:
    """A request for an adapter is refused without a request to Ollama; one for the base model is answered."""
    pinned = dataclasses.replace(question(), adapter="tone@0123456789ab")
    base = dataclasses.replace(question(), adapter="baseline")
    deadline = Deadline.after(CLOCK, 30)
    async with FakeOllama(FaultyResponse()) as server, ollama(server.base) as provider:
        with pytest.raises(AdapterUnavailable, match="tone@0123456789ab"):
            async with provider.open(pinned, deadline, Attempts(CLOCK)):
                pass
        assert not server.received
        async with provider.open(base, deadline, Attempts(CLOCK)) as stream:
            assert "".join([chunk.text async for chunk in stream.chunks]) == TEXT


async def test_its_chunks_can_be_passed_on_as_events() -> None:
    """Each chunk from Ollama has a raw event in OpenAI's format."""
    async with FakeOllama() as server, ollama(server.base) as provider, opened(provider) as stream:
        raw = b"".join([chunk.raw async for chunk in stream.chunks])
    events = EventSplitter().feed(raw)
    assert len(events) == 62
    assert b'"role":"assistant"' in events[0].data
    assert b'"finish_reason":"stop"' in events[60].data
    assert b'"completion_tokens":60' in events[61].data


async def test_what_ollama_is_sent() -> None:
    """Sampling parameters that the request leaves out are sent with the configured defaults, without a session id."""
    async with (
        FakeOllama() as server,
        ollama(server.base, sampling=Sampling(temperature=0.7, max_tokens=99)) as provider,
    ):
        assert await ask(provider) == TEXT
    (received,) = server.received
    assert received.body["options"] == {"num_predict": 99, "temperature": 0.7}
    assert received.body["stream"] is True
    assert "session" not in str(received.headers).lower()


def test_every_sampling_choice_finds_its_option() -> None:
    """OpenAI's sampling parameters are sent as Ollama's options."""
    request = GenerationRequest(
        messages=(Message(role="user", content="Hi"),),
        request_id="req-1",
        sampling=Sampling(
            max_tokens=5,
            temperature=0.1,
            top_p=0.9,
            stop=("END",),
            seed=7,
            logprobs=True,
            presence_penalty=0.2,
            frequency_penalty=0.3,
            response_format={"type": "json_object"},
        ),
    )
    assert chat_request(request, model="m") == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "truncate": False,
        "shift": False,
        "options": {
            "num_predict": 5,
            "temperature": 0.1,
            "top_p": 0.9,
            "stop": ["END"],
            "seed": 7,
            "presence_penalty": 0.2,
            "frequency_penalty": 0.3,
        },
        "logprobs": True,
        "format": "json",
    }


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(code=503, error="busy", headers={"Retry-After": "3"}), Overloaded),
        (Status(code=500, error="out of memory"), InferenceFailed),
        (Status(code=400, error="does not support chat"), InferenceFailed),
        (Reset(), EndpointUnreachable),
        (Silence(), DeadlineExceeded),
        (FaultyResponse(text=""), WorldError),
        (FaultyResponse(cut_after=0), EndpointUnreachable),
        (FaultyResponse(error_after=0), InferenceFailed),
        (Body(data=b"no json\n"), WorldError),
        (Body(data=b'{"done": true}\n'), WorldError),
    ],
    ids=name,
)
async def test_failures_before_the_first_token_are_the_worlds(
    fault: Fault, error: type[Exception]
) -> None:
    """A failure before the first token raises an error that lets the next provider be tried."""
    async with (
        FakeOllama(fault) as server,
        ollama(server.base, timeout=0.1, idle_timeout=0.1) as provider,
    ):
        with pytest.raises(error):
            await ask(provider)


@pytest.mark.parametrize(
    "fault",
    [
        FaultyResponse(cut_after=9),
        FaultyResponse(stall_after=9),
        FaultyResponse(error_after=9, token_delay=0.001),
    ],
    ids=name,
)
async def test_cuts_are_reported(fault: FaultyResponse) -> None:
    """A stream that breaks off after its first tokens raises `GenerationInterrupted`."""
    async with FakeOllama(fault) as server, ollama(server.base, idle_timeout=0.1) as provider:
        with pytest.raises(GenerationInterrupted):
            await ask(provider)


async def test_a_missing_model_comes_with_the_command_that_gets_it() -> None:
    """If the model is missing, error and status have the `ollama pull` command."""
    async with FakeOllama() as server, ollama(server.base, model="dolphin3") as provider:
        with pytest.raises(NotReady, match="ollama pull dolphin3"):
            await ask(provider)
        status = await provider.status()
        assert status.state == "down"
        assert "ollama pull dolphin3" in status.detail


async def test_status_of_a_server() -> None:
    """The status is `up` if the server has the model, and `down` if the server does not respond."""
    async with FakeOllama() as server, ollama(server.base) as provider:
        assert (await provider.status()).state == "up"
    async with ollama("http://127.0.0.1:9") as provider:
        assert (await provider.status()).state == "down"
        with pytest.raises(EndpointUnreachable):
            await ask(provider)


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        ("dolphin3", "dolphin3:latest", True),
        ("dolphin3:8b", "dolphin3:latest", False),
        ("host:5000/team/m", "host:5000/team/m:latest", True),
    ],
)
def test_a_name_without_a_tag_means_latest(wanted: str, found: str, same: bool) -> None:
    """A model name without a tag equals the name with the tag `latest`, and no other tag."""
    assert same_model(wanted, found) is same


def test_a_host_without_a_model_is_a_misconfiguration() -> None:
    """An Ollama host without a model is refused at start."""
    config = InferenceConfig(endpoints=(), use_ray=False, ollama_host="http://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="OLLAMA_HOST"):
        Ollama(config, HttpPool(config), clock=CLOCK)


async def test_leaving_closes_the_connection() -> None:
    """When the client leaves before the end, the connection to Ollama is closed."""
    slow = FaultyResponse(token_delay=0.05)
    async with FakeOllama(slow) as server, ollama(server.base) as provider:
        async with opened(provider):
            pass
        assert await server.clock.sleep(0.2) is None
        assert server.received[0].peer_left.is_set()


async def test_connections_are_reused() -> None:
    """Consecutive requests use one connection."""
    async with FakeOllama() as server, ollama(server.base) as provider:
        for _ in range(5):
            assert await ask(provider) == TEXT
        assert server.connections == 1


async def test_log_probabilities_are_passed_on_from_every_provider() -> None:
    """Log probabilities of a chunk are returned as entries per token, even if its raw event has none."""
    chunk = Chunk(text="Hi", logprobs=(-0.5,), raw=encode_event({"choices": [{"delta": {}}]}))
    assert logprob_entries(chunk) == [
        {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    ]
    assert logprob_entries(Chunk(text="Hi", logprobs=(-0.5,))) != []
    assert logprob_entries(Chunk(text="Hi")) == []


async def test_the_window_is_the_models_own_and_requested_once() -> None:
    """The context length is the model's own, and is requested from the server once."""
    async with FakeOllama() as server, ollama(server.base) as provider:
        server.context_tokens = 32_768
        assert [await provider.context_tokens() for _ in range(3)] == [32_768] * 3
        assert server.shows == 1


@pytest.mark.parametrize(
    "told",
    [
        Status(code=500, error="broken"),
        Body(data=b"no json"),
        Body(data=b"{}"),
        Body(data=b'{"model_info": {"general.architecture": "x", "x.context_length": "many"}}'),
    ],
    ids=name,
)
async def test_a_window_that_could_not_be_read_is_requested_again(told: Status | Body) -> None:
    async with FakeOllama() as server, ollama(server.base) as provider:
        server.shown = told
        assert await provider.context_tokens() is None
        server.shown = None
        assert await provider.context_tokens() == server.context_tokens
    assert await provider.context_tokens() is not None, "once known it stays known"


@pytest.mark.slow
async def test_reading_the_window_of_a_silent_server_times_out() -> None:
    async with FakeOllama() as server, ollama(server.base) as provider:
        server.shown = Silence()
        began = CLOCK.monotonic()
        assert await provider.context_tokens() is None
        assert CLOCK.monotonic() - began < 10


@pytest.mark.parametrize(
    ("window", "room"), [(131_072, 16_384), (9_000, 9_000)], ids=["rounded up", "all there is"]
)
async def test_a_prompt_of_known_size_gets_the_room_it_needs(window: int, room: int) -> None:
    """A prompt of known size is sent with a `num_ctx` that fits, one of a few fixed sizes or the model's own.

    Without a known size, the server's usual context applies.
    """
    asked = dataclasses.replace(question("word " * 30), prompt_tokens=8_000)
    small = Echo(context_tokens=16)
    async with FakeOllama(small, small) as server, ollama(server.base) as provider:
        server.context_tokens = window
        await provider.context_tokens()
        deadline = Deadline.after(CLOCK, 30)
        async with provider.open(asked, deadline, Attempts(CLOCK)) as stream:
            assert "word" in "".join([chunk.text async for chunk in stream.chunks])
        assert server.received[0].body["options"]["num_ctx"] == room
        with pytest.raises(ContextLengthExceeded) as failure:
            async with provider.open(question("word " * 30), deadline, Attempts(CLOCK)):
                pytest.fail("the usual window does not hold it")
        assert (failure.value.prompt_tokens, failure.value.context_tokens) == (31, 16)


async def test_control_tokens_in_texts_are_taken_apart() -> None:
    """Special tokens in texts are altered; the server's list of them is requested once, and only if needed."""
    async with FakeOllama() as server, ollama(server.base) as provider:
        await ask(provider, "Hello")
        assert server.shows == 0
        for _ in range(2):
            await ask(provider, "Hi<|im_end|> <|turn|>")
        assert server.shows == 1
        server.shown = Status(code=500, error="no")
    contents = [received.body["messages"][0]["content"] for received in server.received]
    assert contents[0] == "Hello"
    assert contents[1] == contents[2] == "Hi<\u200b|im_end|> <\u200b|turn|>"


async def test_common_control_tokens_are_taken_apart_where_the_server_lists_none() -> None:
    """If the server does not list its special tokens, common ones are altered in texts."""
    async with FakeOllama() as server, ollama(server.base) as provider:
        server.shown = Status(code=500, error="no")
        await ask(provider, "Hi<|im_end|>")
    (received,) = server.received
    assert received.body["messages"][0]["content"] == "Hi<\u200b|im_end|>"
