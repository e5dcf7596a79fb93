from __future__ import annotations

import dataclasses
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from ray_harness import RayHarness, ray_harness, read_into

from mongars.core.clock import SystemClock
from mongars.core.errors import (
    ContextLengthExceeded,
    EndpointUnreachable,
    GenerationInterrupted,
    InferenceFailed,
)
from mongars.core.generation import Sampling
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.config import InferenceConfig
from mongars.inference.events import Moved
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.serving.config import ReplicaConfig
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.inference import build, question
from mongars.testing.loopback_server import serving
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT = "[1] you said: Say the words."
TOKEN = "open sesame"


@asynccontextmanager
async def cluster(
    plan: FakePlan,
    *,
    asked: str | None = None,
    sent: str | None = None,
    clients: set[object] | None = None,
) -> AsyncIterator[tuple[FakeEngine, RayHarness]]:
    """A Ray client and the real ingress of a replica over a fake engine; yields the engine and the client.

    `asked`: the token that the replica requires; `sent`: the client's token; `clients`: collects
    client addresses.
    """
    engine = FakeEngine(plan, clock=SystemClock())
    digest = None if asked is None else hashlib.sha256(asked.encode()).hexdigest()
    replica = Replica(
        {"general": engine},
        ReplicaConfig(token_sha256=digest),
        clock=SystemClock(),
        replica_id="r1",
    )
    await replica.start()
    app = build_ingress(replica)

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if clients is not None and scope["type"] == "http":
            clients.add(tuple(scope["client"]))
        await app(scope, receive, send)

    async with (
        serving(counted) as url,
        ray_harness(f"{url}/generate", token=sent) as ray,
    ):
        yield engine, ray


@asynccontextmanager
async def ingress(engine: FakeEngine) -> AsyncIterator[str]:
    """The URL of a real ingress over that engine."""
    replica = Replica(
        {"general": engine}, ReplicaConfig(), clock=SystemClock(), replica_id=f"r{id(engine)}"
    )
    await replica.start()
    async with serving(build_ingress(replica)) as url:
        yield f"{url}/generate"


@pytest.mark.parametrize("stop", [(), ("never said",)])
async def test_another_replica_continues_after_any_word(stop: tuple[str, ...]) -> None:
    """An answer cut after any word is continued by another replica, which generates only the missing text.

    With a stop sequence the last word is generated again, since the cut may have been inside it.
    """
    asked = question(" ".join(f"w{number}" for number in range(20)))
    asked = dataclasses.replace(asked, sampling=Sampling(stop=stop))
    words = asked.messages[0].content
    for cut in range(1, 23):
        cutting = FakeEngine(FakePlan(cut_after_tokens=cut, token_delay=0.002), clock=SystemClock())
        whole = FakeEngine(FakePlan(), clock=SystemClock())
        async with ingress(cutting) as first, ingress(whole) as second:
            config = InferenceConfig(
                endpoints=(first, second), use_ray=True, session_affinity=False
            )
            stack = build(config)
            stack.integration.drain("ray-2")  # the answer begins at the replica that cuts it
            async with stack.integration as llm, llm.open(asked) as answer:
                accumulated = AnswerAccumulator()
                accumulated.add(await anext(answer.chunks))
                llm.reset("ray-2")
                llm.drain("ray-1")
                async for chunk in answer:
                    accumulated.add(chunk)
        completion = accumulated.completion(answer.origin)
        assert completion.text == f"[1] you said: {words}", cut
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 23
        moved = [event for event in stack.observer.events if isinstance(event, Moved)]
        begins_anew = bool(stop) and cut == 1  # there is nothing before the first word
        assert [event.kind for event in moved] == ["restarted" if begins_anew else "continued"]


async def test_client_and_replica_understand_each_other() -> None:
    """Through the real ingress, the client gets text, usage and origin."""
    async with cluster(FakePlan()) as (_, ray):
        accumulated = AnswerAccumulator()
        async with ray.open() as stream:
            await read_into(accumulated, stream)
        completion = accumulated.completion(stream.origin)
    assert completion.text == TEXT
    assert completion.usage is not None
    assert (completion.origin.model, completion.origin.replica) == ("fake", "r1")


async def test_readiness_is_understood() -> None:
    """The client's probe of the real ingress shows the endpoint as up."""
    async with cluster(FakePlan()) as (_, ray):
        assert [endpoint.state for endpoint in await ray.endpoints()] == ["up"]


@pytest.mark.parametrize(("sent", "answered"), [(TOKEN, True), ("wrong", False), (None, False)])
async def test_the_application_token(sent: str | None, answered: bool) -> None:
    """With the right token requests are answered; a wrong or missing one is reported as our misconfiguration."""
    async with cluster(FakePlan(), asked=TOKEN, sent=sent) as (_, ray):
        if answered:
            assert await ray.ask() == TEXT
        else:
            with pytest.raises(EndpointUnreachable, match="misconfigured"):
                await ray.ask()


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        (FakePlan(context_tokens=4), ContextLengthExceeded),
        (FakePlan(cut_after_tokens=2, token_delay=0.01), GenerationInterrupted),
        (FakePlan(cut_after_tokens=0), InferenceFailed),
    ],
    ids=["too long", "cut", "cut at once"],
)
async def test_errors_come_through_as_themselves(plan: FakePlan, error: type[Exception]) -> None:
    """The client raises the replica's error class, sent as a status before the first token or an event after it."""
    async with cluster(plan) as (_, ray):
        with pytest.raises(error):
            await ray.ask()


async def test_leaving_stops_the_engine() -> None:
    """When the client disconnects, the engine's slot is freed."""
    async with cluster(FakePlan(token_delay=0.2)) as (engine, ray):
        async with ray.open():
            assert engine.busy == 1
        await eventually(lambda: engine.busy == 0)


async def test_connections_to_the_ingress_are_reused() -> None:
    """Twenty consecutive streams use one connection to the ingress."""
    clients: set[object] = set()
    async with cluster(FakePlan(), clients=clients) as (_, ray):
        for _ in range(20):
            assert await ray.ask() == TEXT
    assert len(clients) == 1
