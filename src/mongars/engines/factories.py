"""Make engines and embedders from specifications, with the factory registered for each engine kind."""

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
    """What the replica, rather than the `EngineSpec`, determines for an engine or embedder when it is made.

    `clock`: the source of the time. `observer` receives the engine's log events. `prompt_cache_scope`: whether accounts
    may reuse each other's cached prompts (`shared`) or not (`user`). `stuck_after`: seconds without output after which
    an engine with requests is restarted (llama.cpp only). `model_file`: returns the path of the model file on this
    node, or raises `ConfigurationError`.
    """

    clock: Clock
    observer: Observer
    prompt_cache_scope: PromptCacheScope
    stuck_after: float
    """Seconds without output, while the engine has requests, after which the engine counts as stuck."""
    model_file: Callable[[], Path]
    """Returns the path of the model file; raises `ConfigurationError` if this node does not have it."""


def make_engine(spec: EngineSpec, setup: EngineSetup) -> Engine:
    """Make the engine that `spec` describes, without starting it.

    `setup`: what does not depend on the specification, such as clock and observer.

    Raises `ConfigurationError` if the Python package of this kind of engine is not installed, or if `spec` is unusable
    for it, such as without a model.
    """
    kind = KINDS[spec.kind]
    kind.check_installed()
    engine: Engine = _load(kind.factory)(spec, setup)
    return engine


def make_embedder(spec: EngineSpec, setup: EngineSetup) -> Embedder:
    """Make the embedder that `spec` describes, without starting it.

    `spec.kind` must be one that has an embedder (not checked here), as in every `EmbeddingSpec`. `setup`: what does not
    depend on the specification, such as clock and observer.

    Raises `ConfigurationError` if the Python package of this kind of engine is not installed, or if `spec` is unusable
    for it, such as without a model.
    """
    kind = KINDS[spec.kind]
    kind.check_installed()
    embedder: Embedder = _load(kind.embedder_factory)(spec, setup)
    return embedder


def _load(factory: str) -> Any:  # noqa: ANN401 (what a name stands for is known when it is loaded)
    return EntryPoint(name="factory", value=factory, group="mongars.engines").load()
