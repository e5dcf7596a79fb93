"""All environment variables of monGARS: names, meanings, defaults and validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from mongars.core.generation import DEFAULT_TEMPERATURE, DEFAULT_TOP_P
from mongars.core.observe import LogLevel
from mongars.core.urls import endpoint_urls, has_credentials, ollama_url, web_origin
from mongars.engines.kinds import check_selectable
from mongars.engines.provisioning.spec import EMBEDDING_MODEL
from mongars.settings.parsing import Boolean, Port, Switch, UserWeights, Words, variable

MEANT_BLANK = frozenset({"RAY_EMBEDDING_MODEL"})
"""The variables for which an empty value means `off`; every other empty variable counts as not set."""


class Environment(BaseModel):
    """The validated values of all environment variables that monGARS reads.

    Made from a mapping of variable names to texts, in which unknown names are ignored; it reads no environment itself.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, given: dict[str, object]) -> dict[str, object]:
        """Drop empty variables, so that they count as not set; templates and Compose files pass many of them."""
        return {
            name: value
            for name, value in given.items()
            if name in MEANT_BLANK or not isinstance(value, str) or value.strip()
        }

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
        "MONGARS_REPLICAS",
        1,
        "Serve replicas that `mongars up` and `--deploy` request.",
        ge=1,
        le=1000,
    )
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = variable(
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
    vllm_kv_cache_mib: int | None = variable(
        "MONGARS_VLLM_KV_CACHE_MIB",
        None,
        "Size of vLLM's key-value cache in MiB instead of that share; set it on a CPU.",
        ge=1,
    )
    engine: Annotated[str, AfterValidator(check_selectable)] = variable(
        "MONGARS_ENGINE",
        "llama_cpp",
        "What runs base models: llama_cpp (GGUF files) or vllm (model folders; needs its extra).",
    )
    prompt_cache_scope: Literal["user", "shared"] = variable(
        "MONGARS_PROMPT_CACHE_SCOPE",
        "user",
        "Whose prompts an engine reuses: user, or shared: faster, but users can detect each other's prompts.",
    )
    prompt_cache_mib: int = variable(
        "MONGARS_PROMPT_CACHE_MIB",
        0,
        "Host memory for prompts of finished requests, MiB; with the scope shared only.",
        ge=0,
    )
    slots: int = variable("MONGARS_SLOTS", 4, "Requests one engine answers at once.", ge=1, le=256)
    user_weights: UserWeights = variable(
        "MONGARS_USER_WEIGHTS",
        (),
        "Comma-separated user=weight: a larger share of the slots while requests wait; others have 1.",
    )
    answer_cache_mib: int = variable(
        "MONGARS_ANSWER_CACHE_MIB",
        0,
        "Memory of the API process for answers that would come out the same again, MiB; 0: off.",
        ge=0,
    )
    answer_cache_seconds: float = variable(
        "MONGARS_ANSWER_CACHE_SECONDS",
        300.0,
        "Seconds for which such an answer is kept.",
        gt=0,
        le=3600,
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
    max_connections: int = variable(
        "MONGARS_MAX_CONNECTIONS",
        4096,
        "Connections the API, or Serve's proxy, keeps open; fewer where open files are limited.",
        ge=16,
        le=60_000,
    )
    max_header_bytes: int = variable(
        "MONGARS_MAX_HEADER_BYTES", 32_768, "Largest request line and headers read.", ge=1024
    )
    allowed_hosts: Words = variable(
        "MONGARS_ALLOWED_HOSTS",
        (),
        "Comma-separated names the API accepts in the Host header; unset: any.",
    )
    cors_origins: Words = variable(
        "MONGARS_CORS_ORIGINS",
        (),
        "Comma-separated origins whose web pages may call the API, e.g. https://app.example.org;"
        " unset: none.",
    )
    system_prompt: str | None = variable(
        "MONGARS_SYSTEM_PROMPT", None, "System message put before every conversation."
    )
    log_level: LogLevel = variable("MONGARS_LOG_LEVEL", "info", "debug, info, warning or error.")
    bootstrap_api_key: SecretStr | None = variable(
        "MONGARS_BOOTSTRAP_API_KEY", None, "Presets one admin API key (16 characters or more)."
    )
    api_key: SecretStr | None = variable(
        "MONGARS_API_KEY", None, "Key `mongars chat` uses; default: the local one."
    )
    secret_key: SecretStr | None = variable(
        "SECRET_KEY",
        None,
        "Signs access tokens (32 characters or more); default: made once and kept in MONGARS_HOME.",
        min_length=32,
    )
    token_minutes: int = variable(
        "ACCESS_TOKEN_EXPIRE_MINUTES", 60, "How long an access token is valid.", ge=1
    )

    use_ray_serve: Boolean | None = variable(
        "USE_RAY_SERVE", None, "Use Ray Serve; default: true when RAY_SERVE_URL names an endpoint."
    )
    ray_serve_url: Words = variable(
        "RAY_SERVE_URL", (), "Comma-separated Serve endpoints, e.g. http://ray-head:8000/generate."
    )
    ray_serve_token: SecretStr | None = variable(
        "RAY_SERVE_TOKEN",
        None,
        "Bearer token that the Serve application requires and the API sends; unset: none is required.",
        min_length=16,
    )
    ray_client_ca_file: Path | None = variable(
        "RAY_CLIENT_CA_FILE",
        None,
        "CA certificates (PEM) that https:// endpoints are checked with; unset: the system's.",
    )
    ray_client_cert_file: Path | None = variable(
        "RAY_CLIENT_CERT_FILE",
        None,
        "Certificate (PEM) the API shows to https:// endpoints; needs RAY_CLIENT_KEY_FILE.",
    )
    ray_client_key_file: Path | None = variable(
        "RAY_CLIENT_KEY_FILE", None, "Its private key (PEM, without a passphrase)."
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
        "RAY_CLIENT_MAX_CONNECTIONS",
        10,
        "Requests to Ray under way at once, per API process.",
        ge=1,
    )
    ray_client_max_keepalive: int = variable(
        "RAY_CLIENT_MAX_KEEPALIVE", 5, "Idle connections kept open for reuse, per endpoint.", ge=1
    )
    ray_client_hedge: Boolean = variable(
        "RAY_CLIENT_HEDGE",
        default=False,
        description="Send to a second endpoint as well when the first token is late; 5 % more load at most.",
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
    ray_retry_after_max: float = variable(
        "RAY_RETRY_AFTER_MAX",
        60.0,
        "Seconds for which a `Retry-After` of a model server is obeyed at most; then one request tests it.",
        gt=0,
        le=3600,
    )
    ray_session_affinity: Boolean = variable(
        "RAY_SESSION_AFFINITY",
        default=True,
        description="Keep a conversation at one of several endpoints, where its prompt is cached.",
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
    compose_profiles: Words | None = variable(
        "COMPOSE_PROFILES",
        None,
        "Compose's own: where set and USE_RAY_SERVE is not, Ray is used if `ray` is among them.",
    )
    ray_address: str | None = variable(
        "RAY_DASHBOARD_ADDRESS",
        None,
        "Dashboard URL of a given cluster, for --deploy and --status.",
    )
    ray_auth_token: SecretStr | None = variable(
        "RAY_AUTH_TOKEN", None, "Token of a Ray cluster started with RAY_AUTH_MODE=token."
    )
    ray_auth_token_path: Path | None = variable(
        "RAY_AUTH_TOKEN_PATH", None, "File with that token."
    )
    general_model: str = variable(
        "RAY_GENERAL_MODEL",
        "smollm2-135m-instruct",
        "Base model: the built-in one, a path (GGUF file; folder for vllm), or ollama:TAG.",
    )
    coding_model: str | None = variable(
        "RAY_CODING_MODEL",
        None,
        "Base model for `task_type` code, coding and developer; unset: the general one answers.",
    )
    embedding_model: Annotated[str | None, Switch] = variable(
        "RAY_EMBEDDING_MODEL",
        EMBEDDING_MODEL,
        "Model behind /v1/embeddings and /api/embed: the built-in one, a path to a GGUF file, or"
        " `none`, which is also what vllm has by itself. The API sends its name with every request, and"
        " vectors of another model never answer: set the same for the Serve application and the API.",
    )
    temperature: float = variable(
        "RAY_MODEL_TEMPERATURE", DEFAULT_TEMPERATURE, "Sampling default.", ge=0, le=2
    )
    top_p: float = variable("RAY_MODEL_TOP_P", DEFAULT_TOP_P, "Sampling default.", gt=0, le=1)
    max_tokens: int | None = variable(
        "RAY_MODEL_MAX_TOKENS",
        None,
        "Longest answer, in tokens, to a request that names no limit; unset: as much as the context"
        " leaves (in conversations a quarter of it, so that a turn fits into the next one's history).",
        ge=1,
    )
    ollama_host: str | None = variable(
        "OLLAMA_HOST",
        None,
        "Ollama server, e.g. http://127.0.0.1:11434; unset: Ollama is not used.",
    )
    ollama_model: str = variable("OLLAMA_MODEL", "smollm2:135m", "Ollama tag used for fallback.")

    database_url: str | None = variable(
        "DATABASE_URL", None, "PostgreSQL or SQLite URL; default: SQLite in MONGARS_HOME."
    )
    db_pool_size: int = variable("DB_POOL_SIZE", 5, "Pooled database connections.", ge=1)
    db_max_overflow: int = variable("DB_MAX_OVERFLOW", 10, "Connections beyond the pool.", ge=0)
    db_pool_timeout: float = variable("DB_POOL_TIMEOUT", 30.0, "Seconds to wait for one.", gt=0)
    db_prepared_statements: Boolean = variable(
        "DB_PREPARED_STATEMENTS",
        default=False,
        description="Let PostgreSQL keep prepared statements; not behind a pooler in transaction mode.",
    )
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
        return endpoint_urls(value)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(web_origin(origin) for origin in value)

    @model_validator(mode="after")
    def _one_authorization(self) -> Self:
        if self.ray_serve_token is not None and any(map(has_credentials, self.ray_serve_url)):
            message = (
                "RAY_SERVE_URL has a user name, and RAY_SERVE_TOKEN is set: a request has one"
                " Authorization header for both. Remove the user name and password, or the token"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.ray_client_cert_file is None) != (self.ray_client_key_file is None):
            message = "RAY_CLIENT_CERT_FILE and RAY_CLIENT_KEY_FILE go together; only one is set"
            raise ValueError(message)
        return self

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
