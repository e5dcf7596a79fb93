"""Build the Serve application's configuration from the settings, and the client that deploys it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mongars.bootstrap.model import configured_model
from mongars.bootstrap.running import is_own_dashboard, is_stack_running, running_dashboard
from mongars.bootstrap.secrets import RAY_TOKEN, digest_of, read_secret
from mongars.core.errors import ConfigurationError
from mongars.core.optional import require
from mongars.core.urls import http_url
from mongars.engines.kinds import KINDS
from mongars.engines.provisioning.spec import FileSource, OllamaSource, source_of
from mongars.serving.config import (
    Autoscaling,
    EmbeddingSpec,
    EngineSpec,
    ReplicaConfig,
    SamplingDefaults,
    ServingConfig,
    VllmOptions,
)
from mongars.serving.control import ServeControl
from mongars.settings import passed_on
from mongars.settings.parsing import expanded

if TYPE_CHECKING:
    from mongars.engines.provisioning.spec import ModelSpec
    from mongars.settings import Settings


Find = Callable[["Settings", str], str]
"""Returns the path of a role's model file; empty: each node uses the file in its own cache."""

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
BODY_HEADROOM = 65_536
DEFAULT_OLLAMA = "http://127.0.0.1:11434"


def exported_config(settings: Settings, *, images_only: bool = False) -> ServingConfig:
    """The configuration of the Serve application for exported manifests; each node uses the models in its own cache.

    `images_only`: the model cache is part of the container image, so no model may be configured as a file of this
    machine. Raises `ConfigurationError` if one is, or if a setting is wrong.
    """
    if images_only:
        _refuse_files(settings)
    return _serving_config(settings, _replica_config(settings, find=_on_each_node))


def _refuse_files(settings: Settings) -> None:
    if KINDS[settings.environment.engine].model != "file":  # a folder is at that path on every node
        return
    for role, spec in settings.provisioning().models.items():
        if isinstance(spec, FileSource):
            part = {"general": "engine"}.get(role, role)
            message = (
                f"RAY_{role.upper()}_MODEL={spec.path} is a file of this machine, which pods do not"
                " have. Put it into a Ray image of yours (COPY it to /models), export without the"
                f" variable, and set serving.replica.{part}.model_path to /models/{spec.path.name}"
                f" and serving.replica.{part}.model_name to {spec.name}."
            )
            raise ConfigurationError(message)


def serving_config(settings: Settings) -> ServingConfig:
    """The configuration of the Serve application by these settings, with the paths of this machine's model files.

    Raises `ConfigurationError` if a model file is missing, if `RAY_SERVE_TOKEN` is not set although `RAY_HTTP_HOST` is
    not a loopback address, or if another setting is wrong.
    """
    environment = settings.environment
    token = environment.ray_serve_token
    if token is None and environment.ray_http_host not in LOOPBACK:
        message = (
            f"RAY_HTTP_HOST={environment.ray_http_host} lets other machines in. Set RAY_SERVE_TOKEN"
            " here and for the API (make one with: openssl rand -hex 32)."
        )
        raise ConfigurationError(message)
    return _serving_config(settings, _replica_config(settings, find=_here))


def _serving_config(settings: Settings, replica: ReplicaConfig) -> ServingConfig:
    environment = settings.environment
    return ServingConfig(
        replica=replica,
        replicas=environment.replicas,
        autoscaling=_autoscaling(settings),
        cpus_per_replica=environment.cpus_per_replica,
        gpus_per_replica=environment.gpus_per_replica,
        host=environment.ray_http_host,
        port=environment.ray_http_port,
        max_surge_percent=environment.max_surge_percent,
        haproxy=environment.haproxy,
    )


def _replica_config(settings: Settings, *, find: Find) -> ReplicaConfig:
    environment = settings.environment
    token = environment.ray_serve_token
    coding = None if environment.coding_model is None else engine_spec(settings, "coding", find)
    embedding = None if settings.embedding_model is None else embedding_spec(settings, find)
    return ReplicaConfig(
        engine=engine_spec(settings, "general", find),
        coding=coding,
        embedding=embedding,
        prompt_cache_scope=environment.prompt_cache_scope,
        sampling=SamplingDefaults(
            temperature=environment.temperature,
            top_p=environment.top_p,
            max_tokens=environment.max_tokens,
        ),
        # The API's client sends the last message twice, also as `prompt` for applications that read
        # only that, so twice the API's largest body must fit.
        max_body_bytes=2 * environment.max_body_bytes + BODY_HEADROOM,
        log_level=environment.log_level,
        generate_path=environment.ray_route_prefix,
        token_sha256=None if token is None else digest_of(token.get_secret_value()),
    )


def _autoscaling(settings: Settings) -> Autoscaling | None:
    least, most = settings.environment.replicas, settings.environment.max_replicas
    if most is None or most == least:
        return None
    if most < least:
        message = f"MONGARS_MAX_REPLICAS={most} is less than MONGARS_REPLICAS={least}."
        raise ConfigurationError(message)
    return Autoscaling(min_replicas=least, max_replicas=most)


def engine_spec(settings: Settings, role: str, find: Find) -> EngineSpec:
    """The specification of the engine for the model role `role` (`general` or `coding`).

    `find(settings, role)` returns the path of the model file, or an empty text: each node then uses the file in its own
    cache. It is not called for models of Ollama, or for engines that use no model file. Raises `ConfigurationError` if
    the model is missing or not usable by the configured engine.
    """
    environment = settings.environment
    size = {"slots": environment.slots, "context_tokens": environment.context_tokens}
    spec = settings.provisioning().models[role]
    if isinstance(spec, OllamaSource):
        url = _shared_url(environment.ollama_host or DEFAULT_OLLAMA)
        if find is _on_each_node and urlsplit(url).hostname in LOOPBACK:
            message = (
                f"OLLAMA_HOST={url} is this machine; name a server that the replicas reach."
                " Kubernetes' network policies allow them where network.extra_egress lists them."
            )
            raise ConfigurationError(message)
        return EngineSpec(kind="ollama", model_name=spec.tag, url=url, **size)
    kind = KINDS[environment.engine]
    if kind.model == "folder":
        return EngineSpec(
            kind=kind.name,
            model_name=spec.name,
            model_path=str(_model_folder(spec, role, engine=kind.name)),
            vllm=VllmOptions(
                dtype=environment.vllm_dtype,
                gpu_memory_utilization=environment.vllm_gpu_memory,
                kv_cache_mib=environment.vllm_kv_cache_mib,
            ),
            **size,
        )
    return EngineSpec(
        kind=kind.name,
        model_path=find(settings, role) if kind.model == "file" else "",
        model_name=spec.name,
        prompt_cache_mib=environment.prompt_cache_mib,
        **size,
    )


def embedding_spec(settings: Settings, find: Find) -> EmbeddingSpec:
    """The specification of the llama.cpp engine behind `/v1/embeddings`.

    `find(settings, "embedding")` returns the path of the model file, or an empty text: each node then uses the file in
    its own cache. Raises `ConfigurationError` if the model file is missing, or if the settings name a model of Ollama;
    `KeyError` if no embedding model is configured.
    """
    spec = settings.provisioning().models["embedding"]
    if isinstance(spec, OllamaSource):
        message = "RAY_EMBEDDING_MODEL: name a GGUF file; Ollama's are not read from here."
        raise ConfigurationError(message)
    return EmbeddingSpec(model_name=spec.name, model_path=find(settings, "embedding"))


def _here(settings: Settings, role: str) -> str:
    found = configured_model(settings, role)
    if found is None:
        source = source_of(settings.provisioning().models[role])
        message = (
            f"No {role} model ({source}, of RAY_{role.upper()}_MODEL) in {settings.cache}."
            " Run: python -m scripts.provision_models"
        )
        raise ConfigurationError(message)
    return str(found.path)


def _on_each_node(_settings: Settings, _role: str) -> str:
    return ""


def _shared_url(url: str) -> str:
    if "@" in url:
        message = (
            "OLLAMA_HOST: a Serve application cannot keep its credentials secret; leave them out."
        )
        raise ConfigurationError(message)
    return url


def _model_folder(spec: ModelSpec, role: str, *, engine: str) -> Path:
    if not isinstance(spec, FileSource):
        message = (
            f"MONGARS_ENGINE={engine}: RAY_{role.upper()}_MODEL must be the path of a model folder in"
            " Hugging Face's format, the same on every node."
        )
        raise ConfigurationError(message)
    return spec.path


def serve_control(settings: Settings, address: str | None) -> ServeControl:
    """A client that deploys the Serve application by the Ray dashboard at the URL `address`.

    `address` None or empty: `RAY_DASHBOARD_ADDRESS`, else the dashboard of the local stack (`mongars up`). The client
    sends the configured token; in the last case the stack's own token, if the stack runs or no token is configured.
    Raises `ConfigurationError` if Ray is not installed, the address is invalid, or a token cannot be read.
    """
    require("ray", extra="serve")
    token, dashboard = ray_token(settings), dashboard_of(settings, address)
    own = not _given(settings, address) and is_own_dashboard(settings, dashboard)
    # The local stack has its own token; RAY_AUTH_TOKEN, as in Compose's .env, may be another cluster's.
    if own and (token is None or is_stack_running(settings)):
        token = read_secret(settings.home, RAY_TOKEN) or token
    return ServeControl(dashboard, token=token)


def dashboard_of(settings: Settings, address: str | None) -> str:
    """The URL of the Ray dashboard: `address`, or `RAY_DASHBOARD_ADDRESS` if that is None or empty.

    If neither is given, that of the local stack. An address without a scheme, such as `host:8265`, gets `http://`.
    Raises `ConfigurationError` if it is no http(s) URL.
    """
    given = _given(settings, address)
    if given is None:
        return running_dashboard(settings)
    try:
        return http_url(given if "://" in given else f"http://{given}")
    except ValueError as error:
        name = "RAY_DASHBOARD_ADDRESS" if address is None else "--address"
        message = f"{name}: {error}. Name the dashboard: HOST:8265 or http://HOST:8265."
        raise ConfigurationError(message) from error


def _given(settings: Settings, address: str | None) -> str | None:
    return address or settings.environment.ray_address


def ray_token(settings: Settings) -> str | None:
    """The token of the settings for a Ray cluster (`RAY_AUTH_TOKEN`, or the file `RAY_AUTH_TOKEN_PATH`), else None.

    Raises `ConfigurationError` if the file cannot be read, or if `.env` names a file outside of the current folder.
    """
    values = settings.environment
    if values.ray_auth_token is not None:
        return values.ray_auth_token.get_secret_value()
    if values.ray_auth_token_path is None:
        return None
    path = expanded(values.ray_auth_token_path, "RAY_AUTH_TOKEN_PATH").resolve()
    # `.env` of a folder may be another user's, and may name the server that the token is sent to.
    if not passed_on(["RAY_AUTH_TOKEN_PATH"]) and not path.is_relative_to(Path.cwd().resolve()):
        detail = (
            f"RAY_AUTH_TOKEN_PATH in .env names {path}, outside of this folder; export it instead."
        )
        raise ConfigurationError(detail)
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        detail = f"RAY_AUTH_TOKEN_PATH: {path} cannot be read: {exc}."
        raise ConfigurationError(detail) from exc
