"""Build a replica from its parts; Ray imports this module on the cluster (`serving.definition.BUILDER`)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mongars.bootstrap.model import node_model
from mongars.bootstrap.secrets import digest_of
from mongars.core.clock import SystemClock
from mongars.core.errors import ConfigurationError
from mongars.engines.factories import EngineSetup, make_embedder, make_engine
from mongars.serving.config import TOKEN_FROM_ENVIRONMENT, EngineSpec, ReplicaConfig
from mongars.serving.deployment import LLMDeployment
from mongars.serving.replica import Replica
from mongars.settings import load_settings
from mongars.telemetry.logs import LogObserver, configure_logs

if TYPE_CHECKING:
    from mongars.core.generation import TaskRole
    from mongars.core.observe import Observer
    from mongars.engines.embedder import Embedder
    from mongars.engines.engine import Engine


def application(args: dict[str, Any]) -> Any:  # noqa: ANN401 (Ray ships no types)
    """Build the Serve application from `args`, whose entry `replica` is a `ReplicaConfig` as a JSON object.

    Ray Serve calls this function by the import path in the application's configuration. Returns a Ray Serve
    `Application`.
    """
    config = ReplicaConfig.model_validate(args["replica"])
    bind = LLMDeployment.bind  # type: ignore[attr-defined] # the decorator made it a Deployment
    return bind(build_replica, config.model_dump(mode="json"))


def build_replica(config: ReplicaConfig, name: str) -> tuple[Replica, Observer]:
    """Build a replica, not started, with the engines that `config` names, and the observer that logs its events.

    `name` is the replica's id in responses. Also configures the logging of this process. Raises `ConfigurationError` if
    this node lacks a model, a Python package, or `RAY_SERVE_TOKEN` where the application requires a token.
    """
    configure_logs(level=config.log_level)
    config = _with_token(config)
    observer = LogObserver()
    engines: dict[TaskRole, Engine] = {
        "general": build_engine(config.engine, config, role="general", observer=observer)
    }
    if config.coding is not None:
        engines["coding"] = build_engine(config.coding, config, role="coding", observer=observer)
    embedder = None
    if config.embedding is not None:
        embedder = build_embedder(config.embedding, config, observer=observer)
    clock = SystemClock()
    replica = Replica(engines, config, clock=clock, replica_id=name, embedder=embedder)
    return replica, observer


def _with_token(config: ReplicaConfig) -> ReplicaConfig:
    """`config` with the SHA-256 of this node's `RAY_SERVE_TOKEN` in place of the marker `TOKEN_FROM_ENVIRONMENT`.

    Raises `ConfigurationError` if that variable is not set. A configuration without the marker is returned unchanged.
    """
    if config.token_sha256 != TOKEN_FROM_ENVIRONMENT:
        return config
    token = load_settings().environment.ray_serve_token
    if token is None:
        message = (
            "RAY_SERVE_TOKEN is not set on this node; the application asks its callers for it."
        )
        raise ConfigurationError(message)
    digest = digest_of(token.get_secret_value())
    return config.model_copy(update={"token_sha256": digest})


def build_engine(
    spec: EngineSpec, config: ReplicaConfig, *, role: str, observer: Observer
) -> Engine:
    """The engine that `spec` describes, not started, for the model role `role` (such as `general`).

    `config` is that of its replica: from it come the prompt-cache scope (whether accounts may reuse each other's cached
    prompts) and the seconds without output after which the engine is restarted. Raises `ConfigurationError` if the
    engine's package is not installed or this node does not have its model.
    """
    return make_engine(spec, _setup(spec, config, role=role, observer=observer))


def build_embedder(spec: EngineSpec, config: ReplicaConfig, *, observer: Observer) -> Embedder:
    """The embedder (engine that computes vectors of texts) that `spec` describes, not started.

    `config` is that of its replica: from it come the prompt-cache scope (whether accounts may reuse each other's cached
    prompts) and the seconds without output after which the engine is restarted. Raises `ConfigurationError` if the
    embedder's package is not installed or this node does not have its model.
    """
    setup = _setup(spec, config, role="embedding", observer=observer)
    return make_embedder(spec, setup)


def _setup(
    spec: EngineSpec, config: ReplicaConfig, *, role: str, observer: Observer
) -> EngineSetup:
    return EngineSetup(
        clock=SystemClock(),
        observer=observer,
        prompt_cache_scope=config.prompt_cache_scope,
        stuck_after=config.stuck_after,
        model_file=partial(node_model, role, spec.model_name),
    )
