"""Composes a replica: what Ray imports on the cluster (`serving.definition.BUILDER`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mongars.bootstrap.model import node_model
from mongars.bootstrap.secrets import digest_of
from mongars.core.clock import SystemClock
from mongars.core.errors import ConfigurationError
from mongars.core.optional import require
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.fake_embedder import FakeEmbedder
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.embedder import LlamaCppEmbedder
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.engines.ollama.config import OllamaConfig
from mongars.engines.ollama.engine import OllamaEngine
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
    """The application builder named in the Serve configuration."""
    config = ReplicaConfig.model_validate(args["replica"])
    bind = LLMDeployment.bind  # type: ignore[attr-defined] # the decorator made it a Deployment
    return bind(build_replica, config.model_dump(mode="json"))


def build_replica(config: ReplicaConfig, name: str) -> tuple[Replica, Observer]:
    """One replica with the engines that its configuration names, and the observer of its events."""
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
    """The configuration with the digest of this node's token, where it leaves that to the node."""
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
    """The engine of a specification. Raises `ConfigurationError` if its model file is not on this machine."""
    clock = SystemClock()
    match spec.kind:
        case "fake":
            plan = FakePlan(
                slots=spec.slots, context_tokens=spec.context_tokens, token_delay=spec.token_delay
            )
            return FakeEngine(plan, clock=clock)
        case "ollama":
            ollama = OllamaConfig(
                url=spec.url,
                model=spec.model_name,
                slots=spec.slots,
                context_tokens=spec.context_tokens,
            )
            return OllamaEngine(ollama, clock=clock, observer=observer)
        case "vllm":
            return _vllm(spec, config, observer=observer)
        case "llama_cpp":
            llama = _llama_config(spec, config, role=role, embedding=False)
            return LlamaCppEngine(llama, clock=clock, observer=observer)


def build_embedder(spec: EngineSpec, config: ReplicaConfig, *, observer: Observer) -> Embedder:
    """The embedder of a specification."""
    if spec.kind == "fake":
        return FakeEmbedder(context_tokens=spec.context_tokens)
    llama = _llama_config(spec, config, role="embedding", embedding=True)
    return LlamaCppEmbedder(llama, clock=SystemClock(), observer=observer)


def _llama_config(
    spec: EngineSpec, config: ReplicaConfig, *, role: str, embedding: bool
) -> LlamaCppConfig:
    return LlamaCppConfig(
        model_path=Path(spec.model_path) if spec.model_path else node_model(role, spec.model_name),
        model_name=spec.model_name,
        slots=spec.slots,
        context_tokens=spec.context_tokens,
        threads=spec.threads,
        prompt_batch_tokens=spec.prompt_batch_tokens,
        prompt_cache_scope=config.prompt_cache_scope,
        prompt_cache_mib=spec.prompt_cache_mib,
        stuck_after=config.stuck_after,
        embedding=embedding,
    )


def _vllm(spec: EngineSpec, replica: ReplicaConfig, *, observer: Observer) -> Engine:
    require("vllm", extra="vllm")
    from mongars.engines.vllm.config import VllmConfig  # noqa: PLC0415 (its own environment)
    from mongars.engines.vllm.engine import VllmEngine  # noqa: PLC0415

    options = spec.vllm
    config = VllmConfig(
        model_path=_folder(spec),
        model_name=spec.model_name,
        slots=spec.slots,
        context_tokens=spec.context_tokens,
        prompt_cache_scope=replica.prompt_cache_scope,
        dtype=options.dtype,
        gpu_memory_utilization=options.gpu_memory_utilization,
        kv_cache_mib=options.kv_cache_mib,
        enforce_eager=options.enforce_eager,
    )
    return VllmEngine(config, clock=SystemClock(), observer=observer)


def _folder(spec: EngineSpec) -> Path:
    if not spec.model_path:
        message = "model_path: the vllm engine needs the path of a model folder."
        raise ConfigurationError(message)
    return Path(spec.model_path)
