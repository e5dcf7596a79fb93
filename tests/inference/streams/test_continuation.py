"""An answer whose stream breaks off is completed exactly or reported as interrupted, never mixed with another text."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import (
    EndpointUnreachable,
    GenerationInterrupted,
    MongarsError,
    WorldError,
)
from mongars.core.generation import Chunk, Origin, Sampling
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.chain import ProviderChain
from mongars.inference.config import InferenceConfig
from mongars.inference.events import Answered, FellBack, Moved
from mongars.inference.provider import Attempts, ProviderStream, StreamState
from mongars.inference.streams.continuation import resume_prefix
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, WORDS, Fault, FaultyResponse, Status
from mongars.testing.inference import Stack, build, question
from mongars.testing.recording import RecordingObserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.generation import GenerationRequest


class DeliveredAnswer:
    """What a client has received: the text, the numbers of chunks and finish reasons, and the error."""

    def __init__(self) -> None:
        self.accumulated = AnswerAccumulator()
        self.chunks = 0
        self.finishes = 0
        self.error: MongarsError | None = None

    @property
    def text(self) -> str:
        return self.accumulated.text


@asynccontextmanager
async def stack(
    *replicas: FakeReplica, engine: FakeEngine | None = None, **settings: object
) -> AsyncIterator[Stack]:
    config = InferenceConfig(
        endpoints=tuple(replica.url for replica in replicas),
        use_ray=True,
        **{"session_affinity": False, **settings},
    )
    built = build(config, engine=engine)
    async with built.integration:
        yield built


async def ask(found: Stack, request: GenerationRequest | None = None) -> DeliveredAnswer:
    delivered = DeliveredAnswer()
    async with found.integration.open(request or question()) as answer:
        try:
            async for chunk in answer:
                delivered.accumulated.add(chunk)
                delivered.chunks += 1
                delivered.finishes += chunk.finish_reason is not None
        except GenerationInterrupted as error:
            delivered.error = error
    return delivered


@pytest.mark.parametrize("cut", ["close", "abort"])
async def test_cut_at_every_token_the_answer_is_the_uncut_one(cut: str) -> None:
    """A stream cut after any token is completed to the same text with one finish reason and the full token count."""
    async with FakeReplica() as replica:
        for index in range(1, WORDS):
            replica.faults.append(FaultyResponse(cut_after=index, cut=cut))
            async with stack(replica) as found:  # a new retry budget each time
                delivered = await ask(found)
            assert delivered.error is None, index
            assert delivered.text == TEXT
            assert delivered.finishes == 1
            assert delivered.accumulated.usage is not None
            assert delivered.accumulated.usage.completion_tokens == WORDS


@pytest.mark.parametrize(
    "fault",
    [
        FaultyResponse(cut_after=40),
        FaultyResponse(malformed_after=10),
        FaultyResponse(error_after=20),
    ],
    ids=["cut", "malformed", "reported"],
)
async def test_another_endpoint_completes_it(fault: Fault) -> None:
    async with FakeReplica() as first, FakeReplica() as second, stack(first, second) as found:
        first.always = fault
        delivered = await ask(found)
        assert (delivered.text, delivered.error) == (TEXT, None)
        moved = [event for event in found.observer.events if isinstance(event, Moved)]
        assert [event.kind for event in moved] in ([], ["restarted"])
        if first.received:
            assert len(moved) == 1
            assert second.received[0].body["messages"] == first.received[0].body["messages"]


async def test_a_stalled_endpoint_is_left_and_not_tried_again() -> None:
    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        stack(first, second, idle_timeout=0.2) as found,
    ):
        first.always = FaultyResponse(stall_after=20)
        for _ in range(4):
            delivered = await ask(found)
            assert (delivered.text, delivered.error) == (TEXT, None)
        assert len(first.received) == 1


async def test_another_text_is_not_mixed_in() -> None:
    """If the second endpoint answers with another text, the delivered text is kept and the interruption reported."""
    async with FakeReplica() as first, FakeReplica() as second, stack(first, second) as found:
        first.always = FaultyResponse(cut_after=10)
        second.always = FaultyResponse(text=TEXT.replace("word5", "other"))
        delivered = await ask(found)
        assert delivered.error is not None
        assert TEXT.startswith(delivered.text) or delivered.text == ""
        assert "other" not in delivered.text
        outcome = [event for event in found.observer.events if isinstance(event, Answered)]
        assert outcome[0].outcome == "error"


async def test_a_shorter_text_does_not_end_it() -> None:
    async with FakeReplica(FaultyResponse(cut_after=10)) as replica, stack(replica) as found:
        replica.always = FaultyResponse(text=" ".join(TEXT.split(" ")[:5]))
        delivered = await ask(found)
        assert delivered.error is not None
        assert delivered.finishes == 0
        assert delivered.text == " ".join(TEXT.split(" ")[:10])


async def test_a_refusal_of_the_next_target_is_not_shown() -> None:
    """If the next endpoint refuses the continuation, the client gets the interruption, not that refusal."""
    refusal = Status(code=400, error="invalid_request", detail="no prefill here")
    async with (
        FakeReplica(FaultyResponse(cut_after=40), refusal) as replica,
        stack(replica) as found,
    ):
        delivered = await ask(found)
        assert isinstance(delivered.error, GenerationInterrupted)
        assert "prefill" not in str(delivered.error)


async def test_moves_are_bounded() -> None:
    async with FakeReplica() as replica, stack(replica) as found:
        replica.always = FaultyResponse(cut_after=10)
        delivered = await ask(found)
        assert delivered.error is not None
        assert delivered.text == " ".join(TEXT.split(" ")[:10])
        assert len(replica.received) == 2


@pytest.mark.parametrize(
    "sampling",
    [Sampling(n=2), Sampling(response_format={"type": "json_object"})],
    ids=["several choices", "response format"],
)
async def test_what_cannot_be_put_together_is_reported(sampling: Sampling) -> None:
    async with FakeReplica() as replica, stack(replica) as found:
        replica.always = FaultyResponse(cut_after=10)
        request = dataclasses.replace(question(), sampling=sampling)
        with pytest.raises(GenerationInterrupted):
            await found.integration.generate(request)
        assert len(replica.received) == 1


async def test_the_local_engine_does_not_continue_with_another_answer() -> None:
    """The local engine's answer, which differs, is not used to complete an answer of Ray."""
    engine = FakeEngine(FakePlan(), clock=SystemClock())
    async with FakeReplica() as replica, stack(replica, engine=engine) as found:
        replica.always = FaultyResponse(cut_after=10)
        delivered = await ask(found)
        assert delivered.error is not None
        assert delivered.text == " ".join(TEXT.split(" ")[:10])


class Script:
    """A provider that plays prepared streams, each with an origin, its words and how it ends, or raises an error."""

    def __init__(self, name: str, *plays: tuple[Origin, list[str], str] | WorldError) -> None:
        self.name = name
        self.local = name != "ray_serve"
        self._plays = list(plays)

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, _deadline: Deadline, _attempts: Attempts
    ) -> AsyncIterator[ProviderStream]:
        play = self._plays.pop(0)
        if isinstance(play, WorldError):
            raise play
        origin, words, ending = play
        begun = request.continue_from
        yield ProviderStream(
            origin=origin,
            endpoint=self.name,
            chunks=ScriptedStream(words, ending),
            continued=begun is not None and begun.was_from(origin),
        )


class ScriptedStream:
    """A stream of prepared chunks; `ending`: `complete`, `cut` or `finished, then cut`."""

    usage = None

    def __init__(self, words: list[str], ending: str) -> None:
        self._chunks = [Chunk(text=word) for word in words]
        if ending != "cut":
            self._chunks.append(Chunk(finish_reason="stop"))
        self._cut = ending != "complete"
        self.state: StreamState = "open"

    def __aiter__(self) -> ScriptedStream:
        return self

    async def __anext__(self) -> Chunk:
        if self._chunks:
            return self._chunks.pop(0)
        self.state = "cut" if self._cut else "complete"
        if self._cut:
            detail = "cut"
            raise GenerationInterrupted(detail)
        raise StopAsyncIteration


TUNED = Origin(model="m", engine="ray", adapter_version="v7")
PLAIN = Origin(model="m", engine="embedded")


async def play(
    *providers: Script, observer: RecordingObserver | None = None
) -> tuple[str, Origin, MongarsError | None]:
    """The answer that a client gets from these providers, and its origin."""
    chain = ProviderChain(providers, observer=observer or RecordingObserver())
    text, error = "", None
    async with chain.open(question(), Deadline.after(SystemClock(), 9)) as answer:
        try:
            async for chunk in answer:
                text += chunk.text
        except GenerationInterrupted as cut:
            error = cut
        return text, answer.origin, error


async def test_only_the_model_that_wrote_the_end_may_continue() -> None:
    """Text added by the base model is not continued by the adapter that began the answer."""
    ray = Script(
        "ray_serve",
        (TUNED, ["A", "B"], "cut"),
        EndpointUnreachable("unreachable"),
        (TUNED, ["A", "B", "other"], "complete"),
    )
    local = Script("embedded", (PLAIN, ["A", "B", "C"], "cut"))
    text, _, error = await play(ray, local)
    assert text == "ABC"
    assert error is not None


async def test_a_request_counts_as_one_fallback() -> None:
    """A request for which Ray fails several times, as its answer is cut again elsewhere, is one fallback in the metrics."""
    down = EndpointUnreachable("unreachable")
    observer = RecordingObserver()
    ray = Script("ray_serve", down, down, down)
    ollama = Script("ollama", (PLAIN, ["A"], "cut"), (PLAIN, ["B"], "cut"))
    local = Script("embedded", (PLAIN, ["C"], "complete"))
    text, _, error = await play(ray, ollama, local, observer=observer)
    assert (text, error) == ("ABC", None)
    assert [event.reason for event in observer.of(FellBack)] == ["ray_exception"]


async def test_the_provider_that_completed_it_is_named() -> None:
    newer = Origin(model="m", engine="ray", adapter_version="v8")
    ray = Script("ray_serve", (TUNED, ["A"], "cut"), (newer, ["A", "B"], "complete"))
    text, origin, error = await play(ray)
    assert (text, origin, error) == ("AB", newer, None)


async def test_nothing_follows_a_finish() -> None:
    """A failure after the finish reason is reported, and the answer is not continued."""
    ray = Script("ray_serve", (TUNED, ["A"], "finished, then cut"), (TUNED, ["B"], "complete"))
    text, _, error = await play(ray)
    assert text == "A"
    assert error is not None


async def test_a_whole_answer_names_the_provider_that_completed_it() -> None:
    """If Ray's answer is cut and Ollama completes it, route, origin and events name Ollama and the fallback."""
    async with FakeReplica() as replica, FakeOllama() as ollama:
        replica.always = FaultyResponse(cut_after=20)
        config = InferenceConfig(
            endpoints=(replica.url,), use_ray=True, ollama_host=ollama.base, ollama_model="fake"
        )
        stack = build(config)
        async with stack.integration:
            completion, route = await stack.integration.generate(question())
        [answered] = stack.observer.of(Answered)
    assert completion.text == TEXT
    assert (route.provider, route.fallback, route.reason) == ("ollama", True, "ray_exception")
    assert route.attempts == len(replica.received) + len(ollama.received)
    assert (answered.provider, answered.fallback) == ("ollama", True)
    assert completion.origin.engine == "ollama"
    [fallen] = stack.observer.of(FellBack)
    assert (fallen.reason, fallen.cause) == ("ray_exception", "generation_interrupted")


@pytest.mark.parametrize(
    ("delivered", "there"),
    [
        ("The sea is", "The sea"),
        ("The sea ", "The sea"),
        ("The  \n sea", "The"),
        ("The end.\n\nNew", "The end"),
        ("The end. New", "The end."),
        ("The", ""),
        (" The", ""),
        ("", ""),
    ],
)
def test_with_a_stop_sequence_continuation_starts_before_the_last_word(
    delivered: str, there: str
) -> None:
    """With stop sequences, a continuation starts before the last word; without, where the answer was cut."""
    assert resume_prefix(delivered, ("stop",)) == there
    assert resume_prefix(delivered, ()) == delivered
