"""Converting environment variables to the configuration objects that the rest of the program receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.generation import Sampling
from mongars.core.urls import local_url
from mongars.engines.kinds import KINDS
from mongars.engines.provisioning.spec import ProvisioningConfig, parse_model_spec
from mongars.inference.config import InferenceConfig, TlsConfig
from mongars.persistence.config import DatabaseConfig
from mongars.settings.parsing import backoff_schedule, expanded, weights

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.core.observe import LogLevel
    from mongars.settings.environment import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, as paths and configuration objects made from the environment variables.

    Properties and methods raise `ConfigurationError` if a path begins with `~` and the user has no home folder.
    `warnings` are texts for the operator about variables that look wrong.
    """

    environment: Environment
    warnings: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        """Absolute path of the home folder (`MONGARS_HOME`), with data that cannot be rebuilt.

        It contains the database, the adapter registry, logs, secrets and files of running processes.
        """
        return expanded(self.environment.home, "MONGARS_HOME")

    @property
    def cache(self) -> Path:
        """Absolute path of the model cache (`MONGARS_CACHE`): the folder with downloaded base models."""
        return expanded(self.environment.cache, "MONGARS_CACHE")

    @property
    def registry(self) -> Path:
        """Absolute path of the folder with LoRA adapters (the adapter registry), by default in the home folder.

        The API process and the Serve application use the same one.
        """
        return (
            _absolute(self.environment.registry, "LLM_ADAPTER_REGISTRY_PATH")
            or self.home / "registry"
        )

    @property
    def log_level(self) -> LogLevel:
        """The lowest level of log messages that are written, such as `info`."""
        return self.environment.log_level

    @property
    def embedding_model(self) -> str | None:
        """The name or path of the model behind `/v1/embeddings`, as configured; None if no embedding model is served.

        With an engine that has no embedder (vLLM), None unless `RAY_EMBEDDING_MODEL` is set explicitly, since llama.cpp
        serves that model and may not be installed.
        """
        values = self.environment
        has_embedder = KINDS[values.engine].embedder_factory != ""
        if not has_embedder and "embedding_model" not in values.model_fields_set:
            return None
        return values.embedding_model

    @property
    def api_url(self) -> str:
        """The base URL of the API of this installation, made from `MONGARS_HOST` and `MONGARS_PORT`.

        For callers on this machine: a host that means all addresses becomes a loopback address.
        """
        return local_url(self.environment.host, self.environment.port)

    def database(self) -> DatabaseConfig:
        """The configuration of the database at `DATABASE_URL`, by default a SQLite file in the home folder."""
        values = self.environment
        return DatabaseConfig(
            url=values.database_url or f"sqlite:///{self.home / 'mongars.db'}",
            pool_size=values.db_pool_size,
            max_overflow=values.db_max_overflow,
            pool_timeout=values.db_pool_timeout,
            prepared_statements=values.db_prepared_statements,
            startup_timeout=values.db_startup_timeout,
            startup_retry_interval=values.db_startup_retry_interval,
        )

    def database_url(self) -> str:
        """The URL of the database, including its password."""
        return self.database().url

    def provisioning(self) -> ProvisioningConfig:
        """The base model of each model role (general, coding, embedding), the model cache, and the address of Ollama.

        The coding model is the general one if none is configured; the role `embedding` is absent if no embedding model
        is served. Raises `ConfigurationError` if a model setting names no usable model.
        """
        values = self.environment
        models = {
            "general": parse_model_spec(values.general_model),
            "coding": parse_model_spec(values.coding_model or values.general_model),
        }
        if self.embedding_model is not None:
            models["embedding"] = parse_model_spec(self.embedding_model)
        if values.ollama_host is None:
            return ProvisioningConfig(cache=self.cache, models=models)
        return ProvisioningConfig(cache=self.cache, models=models, ollama_host=values.ollama_host)

    def _use_ray(self) -> bool:
        """Whether requests are sent to Ray Serve: the value of `USE_RAY_SERVE`, if it is set.

        If not: True if `RAY_SERVE_URL` is set and `COMPOSE_PROFILES` is not set or contains `ray` or `*`, else False.
        """
        values = self.environment
        if values.use_ray_serve is not None:
            return values.use_ray_serve
        profiles = values.compose_profiles
        chosen = profiles is None or not {"ray", "*"}.isdisjoint(profiles)
        return bool(values.ray_serve_url) and chosen

    def inference(self) -> InferenceConfig:
        """The configuration of the client of model servers: endpoints, timeouts, retries, caches, sampling defaults."""
        values = self.environment
        token = values.ray_serve_token
        return InferenceConfig(
            endpoints=values.ray_serve_url,
            use_ray=self._use_ray(),
            timeout=values.ray_client_timeout,
            connect_timeout=values.ray_client_connect_timeout,
            max_connections=values.ray_client_max_connections,
            max_keepalive=values.ray_client_max_keepalive,
            hedge=values.ray_client_hedge,
            weights=weights(values.user_weights),
            answer_cache_bytes=values.answer_cache_mib * 1024 * 1024,
            answer_cache_seconds=values.answer_cache_seconds,
            scaling_status_codes=frozenset(int(code) for code in values.ray_scaling_status_codes),
            scaling_backoff=backoff_schedule(values.ray_scaling_backoff),
            max_scale_cycles=values.ray_max_scale_cycles,
            retry_after_max=values.ray_retry_after_max,
            session_affinity=values.ray_session_affinity,
            token=None if token is None else token.get_secret_value(),
            tls=TlsConfig(
                ca_file=_absolute(values.ray_client_ca_file, "RAY_CLIENT_CA_FILE"),
                cert_file=_absolute(values.ray_client_cert_file, "RAY_CLIENT_CERT_FILE"),
                key_file=_absolute(values.ray_client_key_file, "RAY_CLIENT_KEY_FILE"),
            ),
            ollama_host=values.ollama_host,
            ollama_model=values.ollama_model,
            sampling=Sampling(
                temperature=values.temperature, top_p=values.top_p, max_tokens=values.max_tokens
            ),
        )


def _absolute(path: Path | None, name: str) -> Path | None:
    return None if path is None else expanded(path, name)
