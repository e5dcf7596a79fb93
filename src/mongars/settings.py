"""The only reader of the environment: every variable, its meaning, its default, its check.

Values come from the process environment and, below it, from `.env` in the working directory. They
are read once; the rest of the program receives the frozen configuration objects made here.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mongars.core.errors import ConfigurationError
from mongars.core.generation import Sampling
from mongars.core.urls import http_url, local_url, ollama_url
from mongars.engines.provisioning.spec import (
    EMBEDDING_MODEL,
    ProvisioningConfig,
    parse_model_spec,
)
from mongars.inference.config import InferenceConfig
from mongars.persistence.config import DatabaseConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off"}
DEFAULT_BACKOFF = (0.5, 1.0, 2.0, 4.0)


def read_boolean(value: object) -> object:
    """The one rule for booleans: 1/true/yes/on and 0/false/no/off, any case, trimmed."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in TRUE | FALSE:
        return word in TRUE
    message = "must be one of 1/true/yes/on or 0/false/no/off"
    raise ValueError(message)


def split_list(value: object) -> object:
    """A comma-separated list without its blanks."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def blank_is_none(value: object) -> object:
    """An empty variable is an unset one."""
    return None if isinstance(value, str) and not value.strip() else value


def none_is_none(value: object) -> object:
    """An empty variable, or the word `none`, switches off what has a default."""
    return None if isinstance(value, str) and value.strip().lower() in {"", "none"} else value


Boolean = Annotated[bool, BeforeValidator(read_boolean)]
Optional = BeforeValidator(blank_is_none)
Switch = BeforeValidator(none_is_none)
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]
Level = Literal["debug", "info", "warning", "error"]
Port = Annotated[int, Field(ge=1, le=65535)]


def variable(name: str, default: Any, description: str, **limits: Any) -> Any:  # noqa: ANN401
    """One environment variable; the description feeds the generated reference."""
    return Field(default=default, validation_alias=name, description=description, **limits)


class Environment(BaseSettings):
    """Every variable monGARS reads."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        case_sensitive=True,
        allow_inf_nan=False,
    )

    home: Path = variable(
        "MONGARS_HOME",
        Path("~/.mongars"),
        "Folder with database, registry, logs and run files; back it up or delete it as one.",
    )
    cache: Path = variable(
        "MONGARS_CACHE", Path("~/.cache/mongars"), "Folder with base models; can be rebuilt."
    )
    host: str = variable("MONGARS_HOST", "127.0.0.1", "Address the API listens on.")
    port: Port = variable("MONGARS_PORT", 8080, "Port the API listens on.")
    replicas: int = variable(
        "MONGARS_REPLICAS", 1, "Serve replicas `mongars up` and `--deploy` ask for.", ge=1, le=1000
    )
    max_replicas: Annotated[Annotated[int, Field(ge=1, le=1000)] | None, Optional] = variable(
        "MONGARS_MAX_REPLICAS", None, "Replicas at most, following the load; unset: no scaling."
    )
    cpus_per_replica: float = variable(
        "MONGARS_CPUS_PER_REPLICA", 1.0, "Cores a replica reserves on the cluster.", ge=0
    )
    gpus_per_replica: float = variable(
        "MONGARS_GPUS_PER_REPLICA", 0.0, "GPUs a replica reserves on the cluster.", ge=0
    )
    max_surge_percent: int = variable(
        "MONGARS_MAX_SURGE_PERCENT",
        100,
        "Replicas an update starts before stopping old ones, in percent; 0 needs no spare room.",
        ge=0,
        le=100,
    )
    vllm_dtype: Literal["auto", "bfloat16", "float16", "float32"] = variable(
        "MONGARS_VLLM_DTYPE", "auto", "Number format vLLM computes in."
    )
    vllm_gpu_memory: float = variable(
        "MONGARS_VLLM_GPU_MEMORY", 0.9, "Share of a GPU's memory vLLM takes.", gt=0, le=1
    )
    vllm_kv_cache_mib: Annotated[int | None, Optional] = variable(
        "MONGARS_VLLM_KV_CACHE_MIB",
        None,
        "Size of vLLM's key-value cache in MiB instead of that share; set it on a CPU.",
        ge=1,
    )
    engine: Literal["llama_cpp", "vllm"] = variable(
        "MONGARS_ENGINE",
        "llama_cpp",
        "What runs base models: llama_cpp (GGUF files) or vllm (model folders; needs its extra).",
    )
    prompt_cache_mib: int = variable(
        "MONGARS_PROMPT_CACHE_MIB", 0, "Host memory for prompts of finished requests, MiB.", ge=0
    )
    slots: int = variable("MONGARS_SLOTS", 4, "Requests one engine answers at once.", ge=1, le=256)
    answer_cache_mib: int = variable(
        "MONGARS_ANSWER_CACHE_MIB",
        0,
        "Memory of the API process for answers that would come out the same again, MiB; 0: off.",
        ge=0,
    )
    answer_cache_seconds: float = variable(
        "MONGARS_ANSWER_CACHE_SECONDS", 300.0, "Seconds for which such an answer is kept.", gt=0
    )
    context_tokens: int = variable(
        "MONGARS_CONTEXT_TOKENS",
        4096,
        "Context window per request in tokens, prompt and answer together.",
        ge=256,
    )
    max_body_bytes: int = variable(
        "MONGARS_MAX_BODY_BYTES", 1_000_000, "Largest request body read.", ge=1024
    )
    system_prompt: str | None = variable(
        "MONGARS_SYSTEM_PROMPT", None, "System message put before every conversation."
    )
    log_level: Level = variable("MONGARS_LOG_LEVEL", "info", "debug, info, warning or error.")
    bootstrap_api_key: Annotated[SecretStr | None, Optional] = variable(
        "MONGARS_BOOTSTRAP_API_KEY", None, "Presets one admin API key (16 characters or more)."
    )
    api_key: Annotated[SecretStr | None, Optional] = variable(
        "MONGARS_API_KEY", None, "Key `mongars chat` uses; default: the local one."
    )
    secret_key: Annotated[SecretStr | None, Optional] = variable(
        "SECRET_KEY",
        None,
        "Signs access tokens (32 characters or more); default: made once and kept in MONGARS_HOME.",
        min_length=32,
    )
    token_minutes: int = variable(
        "ACCESS_TOKEN_EXPIRE_MINUTES", 60, "How long an access token is valid.", ge=1
    )

    use_ray_serve: Annotated[Boolean | None, Optional] = variable(
        "USE_RAY_SERVE", None, "Use Ray Serve; default: true when RAY_SERVE_URL names an endpoint."
    )
    ray_serve_url: Words = variable(
        "RAY_SERVE_URL", (), "Comma-separated Serve endpoints, e.g. http://ray-head:8000/generate."
    )
    ray_serve_token: Annotated[SecretStr | None, Optional] = variable(
        "RAY_SERVE_TOKEN",
        None,
        "Bearer token the Serve application asks for and the API sends; unset: none is asked for.",
        min_length=16,
    )
    ray_client_timeout: float = variable(
        "RAY_CLIENT_TIMEOUT",
        10.0,
        "Seconds until the first token of an attempt; grows with the prompt. Not a total.",
        gt=0,
    )
    ray_client_connect_timeout: float = variable(
        "RAY_CLIENT_CONNECT_TIMEOUT", 5.0, "Seconds to open a connection to an endpoint.", gt=0
    )
    ray_client_max_connections: int = variable(
        "RAY_CLIENT_MAX_CONNECTIONS", 10, "Connections to Serve endpoints, per API process.", ge=1
    )
    ray_client_max_keepalive: int = variable(
        "RAY_CLIENT_MAX_KEEPALIVE", 5, "Idle connections kept open for reuse.", ge=1
    )
    ray_client_hedge: Boolean = variable(
        "RAY_CLIENT_HEDGE",
        default=False,
        description="Ask a second endpoint, too, when the first token is late; 5 % more load at most.",
    )
    ray_scaling_status_codes: Words = variable(
        "RAY_SCALING_STATUS_CODES",
        ("503", "409"),
        "Statuses that mean busy or scaling, not broken.",
    )
    ray_scaling_backoff: Words = variable(
        "RAY_SCALING_BACKOFF",
        ("0.5", "1", "2", "4"),
        "Longest wait in seconds before each further round through the endpoints.",
    )
    ray_max_scale_cycles: int = variable(
        "RAY_MAX_SCALE_CYCLES",
        2,
        "Rounds through the endpoints before falling back; four attempts in all at most.",
        ge=1,
        le=10,
    )
    ray_http_host: str = variable(
        "RAY_HTTP_HOST",
        "127.0.0.1",
        "Address the Serve application listens on; anything but loopback needs RAY_SERVE_TOKEN.",
    )
    ray_route_prefix: str = variable(
        "RAY_ROUTE_PREFIX", "/generate", "Path of the Serve application.", pattern=r"^/[\w\-./]+$"
    )
    ray_http_port: Port = variable("RAY_HTTP_PORT", 8000, "Port of the Serve application.")
    ray_port: Port = variable("RAY_PORT", 6379, "Port of the local cluster's head.")
    ray_dashboard_port: Port = variable(
        "RAY_DASHBOARD_PORT", 8265, "Port of the local cluster's dashboard and REST interface."
    )
    haproxy: Boolean = variable(
        "RAY_SERVE_ENABLE_HA_PROXY",
        default=False,
        description="Ray's own: HAProxy before the replicas. No session affinity then.",
    )
    compose_profiles: Annotated[Words | None, Optional] = variable(
        "COMPOSE_PROFILES",
        None,
        "Compose's own: where set and USE_RAY_SERVE is not, Ray is used if `ray` is among them.",
    )
    ray_address: Annotated[str | None, Optional] = variable(
        "RAY_DASHBOARD_ADDRESS",
        None,
        "Dashboard URL of a given cluster, for --deploy and --status.",
    )
    ray_auth_token: Annotated[SecretStr | None, Optional] = variable(
        "RAY_AUTH_TOKEN", None, "Token of a Ray cluster started with RAY_AUTH_MODE=token."
    )
    ray_auth_token_path: Annotated[Path | None, Optional] = variable(
        "RAY_AUTH_TOKEN_PATH", None, "File with that token."
    )
    general_model: str = variable(
        "RAY_GENERAL_MODEL",
        "smollm2-135m-instruct",
        "Base model: the built-in one, a path (GGUF file; folder for vllm), or ollama:TAG.",
    )
    coding_model: Annotated[str | None, Optional] = variable(
        "RAY_CODING_MODEL",
        None,
        "Base model for `task_type` code, coding and developer; unset: the general one answers.",
    )
    embedding_model: Annotated[str | None, Switch] = variable(
        "RAY_EMBEDDING_MODEL",
        EMBEDDING_MODEL,
        "Model behind /v1/embeddings: the built-in one, a path to a GGUF file, or `none`, which is"
        " also what vllm has by itself.",
    )
    temperature: float = variable("RAY_MODEL_TEMPERATURE", 0.7, "Sampling default.", ge=0, le=2)
    top_p: float = variable("RAY_MODEL_TOP_P", 0.9, "Sampling default.", gt=0, le=1)
    max_tokens: int = variable("RAY_MODEL_MAX_TOKENS", 512, "Longest answer by default.", ge=1)
    ollama_host: Annotated[str | None, Optional] = variable(
        "OLLAMA_HOST",
        None,
        "Ollama server, e.g. http://127.0.0.1:11434; unset: Ollama is not used.",
    )
    ollama_model: str = variable("OLLAMA_MODEL", "smollm2:135m", "Ollama tag used for fallback.")

    database_url: Annotated[str | None, Optional] = variable(
        "DATABASE_URL", None, "PostgreSQL or SQLite URL; default: SQLite in MONGARS_HOME."
    )
    db_pool_size: int = variable("DB_POOL_SIZE", 5, "Pooled database connections.", ge=1)
    db_max_overflow: int = variable("DB_MAX_OVERFLOW", 10, "Connections beyond the pool.", ge=0)
    db_pool_timeout: float = variable("DB_POOL_TIMEOUT", 30.0, "Seconds to wait for one.", gt=0)
    db_startup_timeout: float = variable(
        "DB_STARTUP_TIMEOUT", 120.0, "Seconds `init_db.py` waits for the database.", gt=0
    )
    db_startup_retry_interval: float = variable(
        "DB_STARTUP_RETRY_INTERVAL", 3.0, "Seconds between its tries.", gt=0
    )
    registry: Path | None = variable(
        "LLM_ADAPTER_REGISTRY_PATH", None, "Adapter registry; default: `registry` in MONGARS_HOME."
    )

    @field_validator("ray_serve_url")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(http_url(url) for url in value)

    @field_validator("ollama_host")
    @classmethod
    def _ollama_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        return ollama_url(value)

    @field_validator("ray_scaling_status_codes")
    @classmethod
    def _codes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            if not (code.isdigit() and 400 <= int(code) <= 599):  # noqa: PLR2004
                message = f"must be a comma-separated list of HTTP statuses, got {code!r}"
                raise ValueError(message)
        return value or ("503", "409")


def read_environment(
    source: Mapping[str, str] | None = None,
) -> tuple[Environment, tuple[str, ...]]:
    """All variables and the warnings about them.

    Raises:
        ConfigurationError: a value is wrong; the message names each such variable.
    """
    try:
        if source is None:
            environment = Environment()
        else:
            known = {field.validation_alias for field in Environment.model_fields.values()}
            given = {name: value for name, value in source.items() if name in known}
            environment = Environment.model_validate(given)
    except ValidationError as exc:
        lines = [_complaint(dict(error)) for error in exc.errors()]
        raise ConfigurationError("\n".join(lines)) from exc
    names = os.environ if source is None else source
    return environment, (*unknown_names(names), *backoff_warnings(environment))


def _complaint(error: dict[str, Any]) -> str:
    if error["type"] == "too_short":
        error["msg"] = f"needs at least {error['ctx']['min_length']} characters"
    name = ".".join(str(part) for part in error["loc"][:1])
    reason = str(error["msg"]).removeprefix("Value error, ")
    secret = any(word in name for word in ("KEY", "SECRET", "PASSWORD", "TOKEN", "DATABASE_URL"))
    shown = "" if secret else f" (got {error.get('input')!r})"
    return f"{name}: {reason}{shown}"


def unknown_names(names: Mapping[str, str]) -> tuple[str, ...]:
    """Warnings for names that look like ours and are not.

    Ray itself has hundreds of `RAY_` variables, so those are reported only when close to one of
    ours.
    """
    known = {str(field.validation_alias) for field in Environment.model_fields.values()}
    known |= {"MONGARS_STACK_ID", "MONGARS_STACK_PART"}
    warnings = []
    for name in sorted(set(names) - known):
        if not name.startswith(("MONGARS_", "RAY_")):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near:
            warnings.append(f"{name} is not a variable of monGARS; did you mean {near[0]}?")
        elif name.startswith("MONGARS_") and not name.startswith("MONGARS_TEST_"):
            warnings.append(f"{name} is not a variable of monGARS.")
    return tuple(warnings)


def backoff_warnings(environment: Environment) -> tuple[str, ...]:
    """What was dropped from RAY_SCALING_BACKOFF, which is read leniently by contract."""
    warnings = []
    for entry in environment.ray_scaling_backoff:
        try:
            negative = float(entry) < 0
        except ValueError:
            warnings.append(f"RAY_SCALING_BACKOFF: {entry!r} is no number; using the default list.")
        else:
            if negative:
                warnings.append(f"RAY_SCALING_BACKOFF: {entry!r} is negative; dropped.")
    return tuple(warnings)


def backoff_schedule(entries: tuple[str, ...]) -> tuple[float, ...]:
    """The schedule in seconds; a non-number resets the list to the default, negatives drop out."""
    try:
        numbers = tuple(float(entry) for entry in entries)
    except ValueError:
        return DEFAULT_BACKOFF
    return tuple(number for number in numbers if number >= 0) or DEFAULT_BACKOFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment says, as the configuration objects the rest of the program takes."""

    environment: Environment
    warnings: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        """Folder of everything that is not rebuildable."""
        return self.environment.home.expanduser().absolute()

    @property
    def cache(self) -> Path:
        """Folder of base models."""
        return self.environment.cache.expanduser().absolute()

    @property
    def log_level(self) -> Level:
        """The quietest level that is written."""
        return self.environment.log_level

    @property
    def embedding_model(self) -> str | None:
        """What is behind `/v1/embeddings`; beside vLLM only what was asked for.

        llama.cpp serves it, which an installation for vLLM need not have.
        """
        values = self.environment
        if values.engine == "vllm" and "embedding_model" not in values.model_fields_set:
            return None
        return values.embedding_model

    @property
    def api_url(self) -> str:
        """Where the API of this home is reached from this machine."""
        return local_url(self.environment.host, self.environment.port)

    def database(self) -> DatabaseConfig:
        """Where the database is; SQLite in the home folder unless `DATABASE_URL` says otherwise."""
        values = self.environment
        return DatabaseConfig(
            url=values.database_url or f"sqlite:///{self.home / 'mongars.db'}",
            pool_size=values.db_pool_size,
            max_overflow=values.db_max_overflow,
            pool_timeout=values.db_pool_timeout,
            startup_timeout=values.db_startup_timeout,
            startup_retry_interval=values.db_startup_retry_interval,
        )

    def database_url(self) -> str:
        """The database's URL, password included."""
        return self.database().url

    def provisioning(self) -> ProvisioningConfig:
        """Which base model plays which role. Raises `ConfigurationError` for an unusable one."""
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
        """As told; else by the Compose profile; else where there is an endpoint."""
        values = self.environment
        if values.use_ray_serve is not None:
            return values.use_ray_serve
        profiles = values.compose_profiles
        chosen = profiles is None or not {"ray", "*"}.isdisjoint(profiles)
        return bool(values.ray_serve_url) and chosen

    def inference(self) -> InferenceConfig:
        """How questions reach a model."""
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
            answer_cache_bytes=values.answer_cache_mib * 1024 * 1024,
            answer_cache_seconds=values.answer_cache_seconds,
            scaling_status_codes=frozenset(int(code) for code in values.ray_scaling_status_codes),
            scaling_backoff=backoff_schedule(values.ray_scaling_backoff),
            max_scale_cycles=values.ray_max_scale_cycles,
            token=None if token is None else token.get_secret_value(),
            ollama_host=values.ollama_host,
            ollama_model=values.ollama_model,
            sampling=Sampling(
                temperature=values.temperature, top_p=values.top_p, max_tokens=values.max_tokens
            ),
        )


def load_settings(source: Mapping[str, str] | None = None) -> Settings:
    """Read everything once; `source` replaces the environment and `.env`, for tests.

    Raises `ConfigurationError` naming every variable whose value is wrong.
    """
    environment, warnings = read_environment(source)
    return Settings(environment=environment, warnings=warnings)


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with changes, for the processes it starts."""
    return {**os.environ, **changes}
