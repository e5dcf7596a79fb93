"""Make the fake engine and embedder (deterministic, without a model) from a specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.fake_embedder import FakeEmbedder

if TYPE_CHECKING:
    from mongars.engines.engine_spec import EngineSpec
    from mongars.engines.factories import EngineSetup


def build_engine(spec: EngineSpec, setup: EngineSetup) -> FakeEngine:
    """Make a `FakeEngine` (without a model, for tests) with the slots, context window and delay per token of `spec`.

    Of `setup` only the clock is used.
    """
    plan = FakePlan(
        slots=spec.slots, context_tokens=spec.context_tokens, token_delay=spec.token_delay
    )
    return FakeEngine(plan, clock=setup.clock)


def build_embedder(spec: EngineSpec, setup: EngineSetup) -> FakeEmbedder:  # noqa: ARG001 (a factory)
    """Make a `FakeEmbedder` (without a model, for tests) with the context window of `spec`; `setup` is not used."""
    return FakeEmbedder(context_tokens=spec.context_tokens)
