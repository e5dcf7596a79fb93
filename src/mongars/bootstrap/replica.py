"""Composes a replica: what Ray imports on the cluster (`serving.definition.BUILDER`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mongars.core.clock import SystemClock
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.serving.config import EngineSpec, ReplicaConfig
from mongars.serving.deployment import LLMDeployment
from mongars.serving.replica import Replica
from mongars.telemetry.logs import LogObserver, configure_logs

if TYPE_CHECKING:
    from mongars.core.observe import Observer
    from mongars.engines.engine import Engine


def application(args: dict[str, Any]) -> Any:  # noqa: ANN401 (Ray ships no types)
    """The application builder named in the Serve configuration."""
    config = ReplicaConfig.model_validate(args["replica"])
    bind = LLMDeployment.bind  # type: ignore[attr-defined] # the decorator made it a Deployment
    return bind(build_replica, config.model_dump(mode="json"))


def build_replica(config: ReplicaConfig, name: str) -> tuple[Replica, Observer]:
    """One replica with the engine its configuration asks for, and where its events go."""
    configure_logs(level=config.log_level)
    observer = LogObserver()
    clock = SystemClock()
    engine = build_engine(config.engine, observer=observer)
    return Replica(engine, config, clock=clock, replica_id=name), observer


def build_engine(spec: EngineSpec, *, observer: Observer) -> Engine:
    """The engine a specification asks for."""
    clock = SystemClock()
    if spec.kind == "fake":
        plan = FakePlan(
            slots=spec.slots, context_tokens=spec.context_tokens, token_delay=spec.token_delay
        )
        return FakeEngine(plan, clock=clock)
    config = LlamaCppConfig(
        model_path=Path(spec.model_path),
        model_name=spec.model_name,
        slots=spec.slots,
        context_tokens=spec.context_tokens,
        threads=spec.threads,
        prompt_batch_tokens=spec.prompt_batch_tokens,
    )
    return LlamaCppEngine(config, clock=clock, observer=observer)
