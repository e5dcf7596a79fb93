"""A request that names an adapter is answered by that adapter or refused, whichever provider it reaches."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.core.background import Background
from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import AdapterUnavailable, AdapterUnknown, AllProvidersFailed
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.slot_table import SlotKey
from mongars.inference.config import InferenceConfig
from mongars.inference.embedded import Embedded
from mongars.inference.provider import Attempts
from mongars.serving.config import ReplicaConfig
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.adapters import FakeAdapter, adapter_in
from mongars.testing.inference import build, question
from mongars.testing.loopback_server import serving
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.generation import GenerationRequest

CLOCK = SystemClock()
V7 = FakeAdapter(version="v7")
V7_KEY = SlotKey(role="general", digest=V7.digest)
NO_RAY = InferenceConfig(endpoints=(), use_ray=False)
NOBODY = "http://127.0.0.1:9/generate"


def base() -> FakeEngine:
    return FakeEngine(FakePlan(), clock=CLOCK)


def pinned(adapter: str | None) -> GenerationRequest:
    return dataclasses.replace(question(), adapter=adapter)


@asynccontextmanager
async def replica_with_v7() -> AsyncIterator[str]:
    """The URL of a replica that answers with the base model and has the adapter v7 prepared."""
    replica = Replica({"general": base()}, ReplicaConfig(), clock=CLOCK, replica_id="r1")
    await replica.start()
    await replica.slot_table.prepare(V7_KEY, V7.engine)
    async with serving(build_ingress(replica)) as url:
        yield f"{url}/generate"


@asynccontextmanager
async def embedded(**settings: float) -> AsyncIterator[Embedded]:
    """A running embedded provider with the base model."""
    provider = Embedded(base(), NO_RAY, **settings)
    running = Background(provider.run, name="embedded")
    running.start()
    try:
        yield provider
    finally:
        await running.aclose()
        await provider.aclose()


async def ask(provider: Embedded, adapter: str | None = None) -> tuple[str, str]:
    """The text of an answer, and the adapter version in its origin."""
    deadline = Deadline.after(CLOCK, 5)
    async with provider.open(pinned(adapter), deadline, Attempts(CLOCK)) as stream:
        return "".join([chunk.text async for chunk in stream.chunks]), stream.origin.adapter_version


@pytest.mark.parametrize("adapter", [None, "baseline", V7.name, "v7", f"@{V7.digest}"])
async def test_the_pin_reaches_the_replica_and_its_adapter_answers(adapter: str | None) -> None:
    """The adapter named in a request reaches the replica, and that adapter, or the base model, answers."""
    async with replica_with_v7() as url:
        built = build(InferenceConfig(endpoints=(url,), use_ray=True))
        async with built.integration as llm:
            completion, route = await llm.generate(pinned(adapter))
    wanted = "baseline" if adapter in {None, "baseline"} else "v7"
    assert completion.origin.adapter_version == wanted
    assert adapter_in(completion.text) == ("baseline" if wanted == "baseline" else V7.name)
    assert route.provider == "ray_serve"


async def test_an_unknown_adapter_is_the_clients_error_and_no_other_provider_answers() -> None:
    """An adapter unknown to Ray raises `AdapterUnknown`, and the embedded engine does not answer."""
    async with replica_with_v7() as url:
        built = build(InferenceConfig(endpoints=(url,), use_ray=True), engine=base())
        async with built.integration as llm:
            with pytest.raises(AdapterUnknown, match="v9"):
                await llm.generate(pinned("v9"))


async def test_without_ray_a_pin_that_the_embedded_engine_lacks_is_refused_by_name() -> None:
    """Without Ray, a request for an adapter that the embedded engine lacks is refused with its name.

    Requests without an adapter are answered.
    """
    built = build(InferenceConfig(endpoints=(NOBODY,), use_ray=True), engine=base())
    async with built.integration as llm:
        with pytest.raises(AllProvidersFailed) as caught:
            await llm.generate(pinned(V7.name))
        completion, route = await llm.generate(pinned(None))
    causes = dict(caught.value.causes)
    assert isinstance(causes["embedded"], AdapterUnavailable)
    assert f"embedded: adapter_unavailable (Adapter '{V7.name}'" in str(caught.value)
    assert (route.provider, adapter_in(completion.text)) == ("embedded", "baseline")


async def test_the_embedded_engine_answers_with_an_adapter_it_holds() -> None:
    """The embedded engine answers with an adapter once it is prepared, and no longer once it is retired."""
    async with embedded() as provider:
        with pytest.raises(AdapterUnavailable):
            await ask(provider, "v7")
        await provider.slot_table.prepare(V7_KEY, V7.engine)
        assert await ask(provider, "v7") == (f"{V7.name} [1] you said: Say the words.", "v7")
        assert await ask(provider) == ("[1] you said: Say the words.", "baseline")
        provider.slot_table.activate(V7_KEY)
        assert (await ask(provider))[1] == "v7"
        key = SlotKey(role="general")
        await provider.slot_table.retire(key, Deadline.after(CLOCK, 5))
        with pytest.raises(AdapterUnavailable):
            await ask(provider, "baseline")


async def test_idle_engines_of_all_adapters_are_stopped_and_started_again_on_demand() -> None:
    """Idle engines of all adapters are stopped, and started again by the next request for them."""
    async with embedded(idle_seconds=0.1) as provider:
        await provider.slot_table.prepare(V7_KEY, V7.engine)
        assert (await ask(provider))[1] == "baseline"

        def stopped() -> bool:
            reports = provider.slot_table.reports
            return {report.engine.state for report in reports} == {"stopped"}

        await eventually(stopped)
        assert (await ask(provider, V7.name))[1] == "v7"
        assert (await ask(provider))[1] == "baseline"
