"""From a specification to an engine or embedder, by the factory that its kind has registered."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from mongars.engines.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mongars.core.clock import Clock
    from mongars.core.generation import PromptCacheScope
    from mongars.core.observe import Observer
    from mongars.engines.embedder import Embedder
    from mongars.engines.engine import Engine
    from mongars.engines.engine_spec import EngineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """What a factory gets beside the specification."""

    clock: Clock
    observer: Observer
    prompt_cache_scope: PromptCacheScope
    stuck_after: float
    """Seconds an engine may be silent while it has requests."""
    model_file: Callable[[], Path]
    """The path of the model file. Raises `ConfigurationError` if this node does not have it."""


def make_engine(spec: EngineSpec, setup: EngineSetup) -> Engine:
    """An engine that is not started yet. Raises `ConfigurationError` if it cannot be made here."""
    kind = KINDS[spec.kind]
    kind.check_installed()
    engine: Engine = _load(kind.factory)(spec, setup)
    return engine


def make_embedder(spec: EngineSpec, setup: EngineSetup) -> Embedder:
    """An embedder that is not started yet. Raises `ConfigurationError` if it cannot be made here."""
    kind = KINDS[spec.kind]
    kind.check_installed()
    embedder: Embedder = _load(kind.embedder_factory)(spec, setup)
    return embedder


def _load(factory: str) -> Any:  # noqa: ANN401 (what a name stands for is known when it is loaded)
    return EntryPoint(name="factory", value=factory, group="mongars.engines").load()
