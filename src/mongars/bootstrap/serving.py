"""Composes the Serve application's definition from the settings."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mongars.bootstrap.model import configured_model
from mongars.bootstrap.running import running_dashboard
from mongars.bootstrap.secrets import RAY_TOKEN, read_secret
from mongars.core.errors import ConfigurationError
from mongars.core.optional import require
from mongars.engines.provisioning.spec import OllamaSource
from mongars.serving.config import EngineSpec, ReplicaConfig, SamplingDefaults, ServingConfig
from mongars.serving.control import ServeControl

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.settings import Settings


LOOPBACK = {"127.0.0.1", "::1", "localhost"}
BODY_HEADROOM = 65_536


def serving_config(settings: Settings) -> ServingConfig:
    """The application these settings describe. Raises `ConfigurationError` without a model."""
    environment = settings.environment
    path, name = provisioned_model(settings)
    engine = EngineSpec(
        model_path=str(path),
        model_name=name,
        slots=environment.slots,
        context_tokens=environment.context_tokens,
    )
    sampling = SamplingDefaults(
        temperature=environment.temperature,
        top_p=environment.top_p,
        max_tokens=environment.max_tokens,
    )
    token = environment.ray_serve_token
    if token is None and environment.ray_http_host not in LOOPBACK:
        message = (
            f"RAY_HTTP_HOST={environment.ray_http_host} lets other machines in. Set RAY_SERVE_TOKEN"
            " here and for the API (make one with: openssl rand -hex 32)."
        )
        raise ConfigurationError(message)
    return ServingConfig(
        replica=ReplicaConfig(
            engine=engine,
            sampling=sampling,
            # Our client sends the last message twice, as `prompt` for applications that know
            # only that, so what the API accepts must fit twice.
            max_body_bytes=2 * environment.max_body_bytes + BODY_HEADROOM,
            log_level=environment.log_level,
            generate_path=environment.ray_route_prefix,
            token_sha256=None if token is None else digest_of(token.get_secret_value()),
        ),
        replicas=environment.replicas,
        host=environment.ray_http_host,
        port=environment.ray_http_port,
    )


def digest_of(token: str) -> str:
    """The form in which a token travels to the cluster. It is random, so one hash protects it."""
    return hashlib.sha256(token.encode()).hexdigest()


def provisioned_model(settings: Settings) -> tuple[Path, str]:
    """The general role's model file and name. Raises `ConfigurationError` if it is not there."""
    spec = settings.provisioning().models["general"]
    if isinstance(spec, OllamaSource):
        message = (
            f"RAY_GENERAL_MODEL=ollama:{spec.tag} lives in Ollama, which has no file that replicas"
            " could load. Name a GGUF file, or answer with Ollama alone: OLLAMA_HOST, OLLAMA_MODEL"
            " and `mongars up --no-ray`."
        )
        raise ConfigurationError(message)
    found = configured_model(settings)
    if found is None:
        message = f"No base model in {settings.cache}. Run: python -m scripts.provision_models"
        raise ConfigurationError(message)
    return found.path, found.name


def serve_control(settings: Settings, address: str | None) -> ServeControl:
    """The way to a cluster: the given address, else the configured one, else the local one."""
    require("ray", extra="serve")
    given = address or settings.environment.ray_address
    if given is not None:
        return ServeControl(given, token=ray_token(settings))
    local = running_dashboard(settings)
    return ServeControl(local, token=ray_token(settings) or read_secret(settings.home, RAY_TOKEN))


def ray_token(settings: Settings) -> str | None:
    """The token a person set for their cluster. Raises `ConfigurationError` if unreadable."""
    values = settings.environment
    if values.ray_auth_token is not None:
        return values.ray_auth_token.get_secret_value()
    if values.ray_auth_token_path is None:
        return None
    try:
        return values.ray_auth_token_path.expanduser().read_text(encoding="ascii").strip()
    except OSError as exc:
        detail = f"RAY_AUTH_TOKEN_PATH: {values.ray_auth_token_path}: {exc.strerror}."
        raise ConfigurationError(detail) from exc
