"""The contract of request, response and fallback, as the deployment guide describes it.

Each test calls `LLMIntegration` over real sockets; the cluster is a fake replica that speaks the real protocol.
"""

from __future__ import annotations

import math

import pytest

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import (
    AllProvidersFailed,
    CallerError,
    ConfigurationError,
    GenerationInterrupted,
    PromptMissing,
)
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.config import InferenceConfig
from mongars.inference.events import Answered, FellBack, RayDisabled
from mongars.inference.integration import LLMIntegration
from mongars.inference.provider import Route
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Body, Fault, FaultyResponse, Reset, Silence, Status
from mongars.testing.inference import Stack, build, question
from mongars.testing.recording import RecordingObserver

LOCAL_TEXT = "[1] you said: Say the words."
NOBODY = "http://127.0.0.1:9/generate"


def stack(
    *urls: str,
    use_ray: bool = True,
    timeout: float = 5.0,
    ollama: str | None = None,
    plan: FakePlan | None = None,
) -> Stack:
    """A stack with the Ray endpoints `urls`, with Ollama at the address `ollama`, and with an embedded fake engine.

    `plan` is what the embedded engine does: by default it answers, and with `BROKEN` it fails to start.
    """
    config = InferenceConfig(
        endpoints=urls,
        use_ray=use_ray,
        timeout=timeout,
        scaling_backoff=(0.01, 0.02),
        session_affinity=False,
        ollama_host=ollama,
        ollama_model="fake" if ollama else None,
    )
    return build(config, engine=FakeEngine(plan or FakePlan(), clock=SystemClock()))


BROKEN = FakePlan(start_error="no weights")


async def test_request_as_the_replica_sees_it() -> None:
    """The replica receives `prompt` and `task_type`, as in earlier versions, and also `messages` and `stream`."""
    async with FakeReplica() as replica, stack(replica.url).integration as llm:
        await llm.generate_response("Say the words.", "coding", max_tokens=99)
    (received,) = replica.received
    assert received.body["prompt"] == "Say the words."
    assert received.body["messages"] == [{"role": "user", "content": "Say the words."}]
    assert received.body["task_type"] == "coding"
    assert received.body["max_tokens"] == 99
    assert received.body["stream"] is True


async def test_response_in_its_published_form() -> None:
    """The response has measured numbers under the published keys; `adapter_version` is the replica's own."""
    async with FakeReplica(FaultyResponse(logprob=-0.5)) as replica:
        async with stack(replica.url).integration as llm:
            answer = await llm.generate_response("Say the words.")
        assert answer == {
            "text": TEXT,
            "confidence": pytest.approx(math.exp(-0.5)),
            "tokens_used": 60,
            "source": "ray_serve",
            "adapter_version": "v7",
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": 60,
                "total_tokens": 67,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
            "request_id": replica.received[0].headers["x-request-id"],
        }


async def test_nothing_is_invented() -> None:
    """Values that the engine did not measure are None: tokens and confidence are not estimated."""
    older = Body(data=b'{"content": "Hello."}')
    async with FakeReplica(older) as replica, stack(replica.url).integration as llm:
        answer = await llm.generate_response("Hi")
    assert answer["text"] == "Hello."
    assert (answer["confidence"], answer["tokens_used"], answer["usage"]) == (None, None, None)


async def test_the_reasoning_hint_reaches_the_replica() -> None:
    """The response hint `reasoning` of the earlier client is sent to the replica as the task type."""
    async with FakeReplica() as replica, stack(replica.url).integration as llm:
        await llm.generate_response("Why?", response_hints={"reasoning": True})
    assert replica.received[0].body["task_type"] == "reasoning"


async def test_a_stream_is_the_answer_as_it_grows() -> None:
    """The chunks of a stream arrive while the answer is generated, and together they are the whole text."""
    clock = SystemClock()
    slow = FaultyResponse(token_delay=0.005)
    async with FakeReplica(slow) as replica, stack(replica.url).integration as llm:
        start = clock.monotonic()
        stamps, text = [], ""
        async for chunk in llm.stream_response("Say the words."):
            stamps.append(clock.monotonic() - start)
            text += chunk.text
    assert text == TEXT
    assert stamps[-1] - stamps[0] > 0.25


async def test_the_route_tells_which_way_an_answer_came() -> None:
    """The route of an answer has the provider, the endpoint and the number of attempts, for the response headers."""
    async with (
        FakeReplica(Status(code=500)) as broken,
        FakeReplica() as healthy,
        stack(broken.url, healthy.url).integration as llm,
    ):
        completion, route = await llm.generate(question())
    assert completion.origin == healthy.origin
    assert route == Route(
        provider="ray_serve", endpoint=healthy.url.removeprefix("http://"), attempts=2
    )


@pytest.mark.parametrize(
    ("fault", "reason", "cause"),
    [
        (Status(code=503), "ray_exception", "overloaded"),
        (Status(code=409, error="not_ready"), "ray_exception", "not_ready"),
        (Status(code=500), "ray_exception", "invalid_answer"),
        (Reset(), "ray_exception", "endpoint_unreachable"),
        (Silence(), "ray_exception", "deadline_exceeded"),
        (Body(data=b"<html>"), "ray_exception", "invalid_answer"),
        (Body(data=b'{"error": "inference_failed"}'), "error_response", "inference_failed"),
        (Status(code=500, error="inference_failed"), "error_response", "inference_failed"),
        (FaultyResponse(text=""), "empty_response", "invalid_answer"),
    ],
    ids=["503", "409", "500", "reset", "silence", "html", "200 error", "500 error", "empty"],
)
async def test_fallback_to_the_local_model(fault: Fault, reason: str, cause: str) -> None:
    """If Ray cannot answer, the local model does; one event reports the published reason and the cause."""
    async with FakeReplica() as replica:
        replica.always = fault
        built = stack(replica.url, timeout=0.3 if isinstance(fault, Silence) else 5.0)
        async with built.integration as llm:
            completion, route = await llm.generate(question())
    assert completion.text == LOCAL_TEXT
    assert (route.provider, route.fallback, route.reason) == ("embedded", True, reason)
    (event,) = built.observer.of(FellBack)
    assert event.log.name == "llm.ray.fallback_local"
    fields = event.fields()
    assert (fields["task_type"], fields["reason"], fields["cause"]) == ("general", reason, cause)


async def test_a_dead_cluster_is_noticed_once() -> None:
    """While the only endpoint is unreachable, 20 requests are answered locally, and at most one is sent to it."""
    built = stack(NOBODY)
    async with built.integration as llm:
        for _ in range(20):
            _, route = await llm.generate(question())
            assert route.provider == "embedded"
    assert built.observer.names.count("llm.ray.dispatch") <= 1
    assert built.observer.names.count("llm.ray.fallback_local") == 20


async def test_fallback_goes_to_ollama_first() -> None:
    """Without Ray, Ollama answers; if Ollama is stopped as well, the embedded model answers."""
    async with FakeOllama() as server, stack(NOBODY, ollama=server.base).integration as llm:
        completion, route = await llm.generate(question())
        assert (route.provider, route.fallback) == ("ollama", True)
        assert (completion.text, completion.origin.degraded) == (TEXT, True)
        await server.stop()
        completion, route = await llm.generate(question())
        assert (route.provider, completion.text) == ("embedded", LOCAL_TEXT)


@pytest.mark.parametrize(
    ("urls", "use_ray", "reason"),
    [((), True, "empty_url_configuration"), ((NOBODY,), False, "disabled_by_configuration")],
    ids=["no url", "switched off"],
)
async def test_without_ray_the_local_model_is_the_first_choice(
    urls: tuple[str, ...], use_ray: bool, reason: str
) -> None:
    """If Ray has no URL or is switched off, the local model answers; one event has the reason, none a fallback."""
    built = stack(*urls, use_ray=use_ray)
    async with built.integration as llm:
        _, route = await llm.generate(question())
    assert (route.provider, route.fallback, route.reason) == ("embedded", False, None)
    (event,) = built.observer.of(RayDisabled)
    assert (event.log.name, event.reason) == ("llm.ray.disabled", reason)


@pytest.mark.parametrize("cut", ["close", "abort"])
async def test_no_fallback_after_the_first_token(cut: str) -> None:
    """An answer that is cut at every attempt ends with an error; no other provider's text is appended to it."""
    async with FakeReplica() as replica:
        replica.always = FaultyResponse(cut_after=40, cut=cut)
        built = stack(replica.url)
        async with built.integration as llm:
            with pytest.raises(GenerationInterrupted):
                await llm.generate_response("Say the words.")
    assert built.observer.of(FellBack) == []
    assert [event.outcome for event in built.observer.of(Answered)] == ["error"]


async def test_the_callers_mistake_is_not_retried_and_does_not_fall_back() -> None:
    """A request that the replica refuses with 400 is not retried and not sent to the local model."""
    async with FakeReplica(Status(code=400, error="context_length_exceeded")) as replica:
        built = stack(replica.url)
        async with built.integration as llm:
            with pytest.raises(CallerError):
                await llm.generate(question())
    assert len(replica.received) == 1
    assert built.observer.of(FellBack) == []


async def test_an_empty_prompt_is_refused_before_anything_is_sent() -> None:
    """An empty prompt is refused before any request is sent."""
    async with FakeReplica() as replica:
        async with stack(replica.url).integration as llm:
            with pytest.raises(PromptMissing):
                await llm.generate_response("  ")
        assert replica.received == []


async def test_when_everything_fails_every_cause_is_told() -> None:
    """If all providers fail, the error has the reason of each and the `Retry-After` of the replica."""
    async with FakeReplica() as replica, FakeOllama(models=()) as server:
        replica.always = Status(code=503, headers={"Retry-After": "7"})
        built = stack(replica.url, ollama=server.base, plan=BROKEN)
        async with built.integration as llm:
            with pytest.raises(AllProvidersFailed) as failure:
                await llm.generate_response("Hi")
    causes = {name: error.code for name, error in failure.value.causes}
    assert causes == {
        "ray_serve": "overloaded",
        "ollama": "not_ready",
        "embedded": "inference_failed",
    }
    assert 6 < (failure.value.retry_after or 0) <= 7
    assert "ollama pull fake" in str(failure.value)
    names = built.observer.names
    assert names[-4:] == [
        "llm.ray.fallback_local",
        "llm.ollama.error",
        "llm.embedded.error",
        "llm.unanswered",
    ]


async def test_one_deadline_bounds_the_whole_request() -> None:
    """With a silent cluster and a slow local model, the request still fails at its deadline of 0.5 s."""
    clock = SystemClock()
    async with FakeReplica() as replica:
        replica.always = Silence()
        built = stack(replica.url, timeout=0.2, plan=FakePlan(first_token_delay=30.0))
        async with built.integration as llm:
            start = clock.monotonic()
            with pytest.raises(AllProvidersFailed):
                await llm.generate(question(), deadline=Deadline.after(clock, 0.5))
            assert clock.monotonic() - start < 1.0


async def test_no_event_holds_what_was_said() -> None:
    """No event contains the question, the answer or the session id."""
    async with FakeReplica(Status(code=500, error="inference_failed"), FaultyResponse()) as replica:
        built = stack(replica.url)
        async with built.integration as llm:
            await llm.generate(question("the secret plan"))
    told = str([(event.log.name, event.fields()) for event in built.observer.events])
    assert "secret" not in told
    assert "word1" not in told
    assert "somebody" not in told


async def test_an_answer_is_counted_with_what_it_took() -> None:
    """An answer causes one event with provider, outcome, tokens and seconds, for the metrics."""
    async with FakeReplica(FaultyResponse(first_delay=0.05, token_delay=0.001)) as replica:
        built = stack(replica.url)
        async with built.integration as llm:
            await llm.generate(question())
    (event,) = built.observer.of(Answered)
    assert (event.provider, event.outcome, event.fallback) == ("ray_serve", "success", False)
    assert (event.prompt_tokens, event.completion_tokens) == (7, 60)
    assert 0.05 <= event.first_token_seconds < event.seconds


def test_nobody_to_ask_is_a_misconfiguration() -> None:
    """Without Ray and without a local model, the start fails with an error that names `RAY_SERVE_URL`."""
    config = InferenceConfig(endpoints=(), use_ray=False)
    with pytest.raises(ConfigurationError, match="RAY_SERVE_URL"):
        LLMIntegration(config, (), clock=SystemClock(), observer=RecordingObserver())
