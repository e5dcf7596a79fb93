"""The services of the Compose project: API, database and migrations; with profiles also Ray and Ollama."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.serving.config import PROXY_GUARD, QUIET_RAY
from mongars.serving.exports.config import API_PORT, EVERY_INTERFACE, RAY_BASE_IMAGE
from mongars.serving.exports.objects.pods import HOME_PATH, REGISTRY_PATH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mongars.serving.config import EmbeddingSpec
    from mongars.serving.exports.config import ExportConfig, Image

ServiceFields = dict[str, Any]

OLLAMA_IMAGE = "ollama/ollama:0.12.6"
DASHBOARD = "http://ray-head:8265"
SMALL_TMP = "/tmp:mode=1777,size=256m"  # noqa: S108 (a volume of the container's own)
RAY_TMP = "/tmp:exec,mode=1777,size=4g"  # noqa: S108 (as above)
ASK = "run once: sh deploy/compose/secrets.sh"
MODEL_VARIABLES = ("RAY_GENERAL_MODEL", "RAY_CODING_MODEL")
"""The variables that choose base models, set for every service that provisions, deploys or runs a model."""
DATABASE_VARIABLES = (
    "DB_POOL_SIZE",
    "DB_MAX_OVERFLOW",
    "DB_POOL_TIMEOUT",
    "DB_PREPARED_STATEMENTS",
    "DB_STARTUP_TIMEOUT",
    "DB_STARTUP_RETRY_INTERVAL",
)
API_VARIABLES = (
    "RAY_CLIENT_TIMEOUT",
    "RAY_CLIENT_CONNECT_TIMEOUT",
    "RAY_CLIENT_MAX_CONNECTIONS",
    "RAY_CLIENT_MAX_KEEPALIVE",
    "RAY_CLIENT_HEDGE",
    "RAY_CLIENT_CA_FILE",
    "RAY_CLIENT_CERT_FILE",
    "RAY_CLIENT_KEY_FILE",
    "RAY_SCALING_STATUS_CODES",
    "RAY_SCALING_BACKOFF",
    "RAY_RETRY_AFTER_MAX",
    "RAY_MAX_SCALE_CYCLES",
    "RAY_SESSION_AFFINITY",
    "RAY_MODEL_TEMPERATURE",
    "RAY_MODEL_TOP_P",
    "RAY_MODEL_MAX_TOKENS",
    "MONGARS_ANSWER_CACHE_MIB",
    "MONGARS_ANSWER_CACHE_SECONDS",
    "MONGARS_ALLOWED_HOSTS",
    "MONGARS_CORS_ORIGINS",
    "MONGARS_LOG_LEVEL",
    "MONGARS_MAX_BODY_BYTES",
    "MONGARS_MAX_CONNECTIONS",
    "MONGARS_MAX_HEADER_BYTES",
    "MONGARS_SYSTEM_PROMPT",
    "MONGARS_USER_WEIGHTS",
    "ACCESS_TOKEN_EXPIRE_MINUTES",
)
"""The variables of `.env` that the API's container gets, besides those of models and database."""
PROXY_VARIABLES = ("MONGARS_MAX_CONNECTIONS", "MONGARS_MAX_HEADER_BYTES")
"""The variables that limit the connections of Serve's proxy, which runs in the container of Ray's head."""
DEPLOY_VARIABLES = (
    "MONGARS_ENGINE",
    "MONGARS_MAX_BODY_BYTES",
    "MONGARS_VLLM_DTYPE",
    "MONGARS_VLLM_GPU_MEMORY",
    "MONGARS_VLLM_KV_CACHE_MIB",
)
MODELS_PATH = "/opt/mongars/models"
"""The cache of base models in both images (`MONGARS_CACHE`)."""
MODEL_VOLUME = f"models:{MODELS_PATH}"
MODEL_FOLDER = "${MODEL_FOLDER:-model-files}:/models:ro"
"""The mount of the operator's model files, for `RAY_GENERAL_MODEL=/models/NAME.gguf`."""


def services(config: ExportConfig, *, source: str) -> dict[str, ServiceFields]:
    """Every service of the Compose export: name to fields. `source` is the path of the repository to build images from.

    Exactly one service builds each image: two services that build the same tag at the same time fail.
    """
    return {
        "models": _models(config),
        "migrations": _migrations(config),
        "api": {**_api(config), "build": _build(source, "api")},
        "postgres": _postgres(config),
        "ray-head": {**_ray_head(config), "build": {**_build(source, "ray"), **_RAY_BASE}},
        "ray-deploy": _ray_deploy(config),
        "ollama": _ollama(),
    }


def _service(image: str, **fields: Any) -> ServiceFields:  # noqa: ANN401 (a service's further fields)
    """A Compose service with the given fields; it can write only into its volumes, and its logs are limited in size.

    `image` is the image reference. `fields` are in Compose's format and replace those set here.
    """
    return {
        "image": image,
        "restart": "unless-stopped",
        "init": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
        **fields,
    }


def _api_image(config: ExportConfig) -> str:
    return f"${{MONGARS_IMAGE:-{config.api.image.reference}}}"


_RAY_BASE = {"args": {"RAY_HEAD_IMAGE": f"${{RAY_HEAD_IMAGE:-{RAY_BASE_IMAGE}}}"}}


def _build(source: str, image: str) -> ServiceFields:
    return {
        "context": f"${{MONGARS_SOURCE:-{source}}}",
        "dockerfile": f"deploy/docker/{image}.Dockerfile",
    }


def _models(config: ExportConfig) -> ServiceFields:
    """The Compose service, run once, that stores the configured base models in their volume."""
    embedding = config.serving.replica.embedding
    environment = {
        "MONGARS_HOME": HOME_PATH,
        "OLLAMA_HOST": "${OLLAMA_HOST:-}",
        **_passed_on(MODEL_VARIABLES),
        **_embedding(embedding),
    }
    return _service(
        _api_image(config),
        command=["python", "-m", "scripts.provision_models"],
        restart="no",
        environment=environment,
        volumes=[MODEL_VOLUME, MODEL_FOLDER],
        tmpfs=[SMALL_TMP, _home()],
        networks=["front"],
        mem_limit="1g",
    )


def _migrations(config: ExportConfig) -> ServiceFields:
    return _service(
        _api_image(config),
        command=["python", "init_db.py"],
        restart="no",
        environment={
            "MONGARS_HOME": HOME_PATH,
            "DATABASE_URL": _database_url(),
            **_passed_on(DATABASE_VARIABLES),
        },
        tmpfs=[SMALL_TMP, _home()],
        networks=["front", "data"],  # `front`, as DATABASE_URL may name an external server
        depends_on={"postgres": {"condition": "service_healthy"}},
        mem_limit="512m",
    )


def _api(config: ExportConfig) -> ServiceFields:
    port = config.serving.port
    endpoint = f"http://ray-head:{port}{config.serving.replica.generate_path}"
    environment = {
        "MONGARS_HOST": EVERY_INTERFACE,
        "MONGARS_PORT": str(API_PORT),
        "MONGARS_HOME": HOME_PATH,
        "LLM_ADAPTER_REGISTRY_PATH": REGISTRY_PATH,
        "DATABASE_URL": _database_url(),
        # Ray Serve is used if the profile `ray` is active, unless USE_RAY_SERVE is set.
        "COMPOSE_PROFILES": "${COMPOSE_PROFILES:-none}",
        "USE_RAY_SERVE": "${USE_RAY_SERVE:-}",
        "RAY_SERVE_URL": f"${{RAY_SERVE_URL:-{endpoint}}}",
        "OLLAMA_HOST": "${OLLAMA_HOST:-}",
        "OLLAMA_MODEL": "${OLLAMA_MODEL:-smollm2:135m}",
        **_optional("MONGARS_CONTEXT_TOKENS", config.serving.replica.engine.context_tokens),
        **_optional("MONGARS_PROMPT_CACHE_SCOPE", config.serving.replica.prompt_cache_scope),
        **_optional("MONGARS_PROMPT_CACHE_MIB", config.serving.replica.engine.prompt_cache_mib),
        **_passed_on((*MODEL_VARIABLES, *DATABASE_VARIABLES, *API_VARIABLES)),
        **_embedding(config.serving.replica.embedding),
        **_required("RAY_SERVE_TOKEN", "SECRET_KEY", "MONGARS_BOOTSTRAP_API_KEY"),
    }
    return _service(
        _api_image(config),
        environment=environment,
        ports=[_published("API_PORT", API_PORT, API_PORT)],
        volumes=[f"registry:{REGISTRY_PATH}", f"{MODEL_VOLUME}:ro"],
        tmpfs=[SMALL_TMP, _home()],
        networks=["front", "data"],
        depends_on={
            "models": {"condition": "service_completed_successfully"},
            "migrations": {"condition": "service_completed_successfully"},
            "ray-deploy": {"condition": "service_completed_successfully", "required": False},
        },
        healthcheck=_health(f"http://127.0.0.1:{API_PORT}/readyz"),
        mem_limit="${API_MEMORY:-2g}",
        pids_limit=512,
        stop_grace_period="30s",
    )


def _postgres(config: ExportConfig) -> ServiceFields:
    return _service(
        config.database.image.reference,
        user="postgres",
        environment={
            "POSTGRES_USER": "mongars",
            "POSTGRES_DB": "mongars",
            "PGDATA": "/var/lib/postgresql/data/pgdata",
            **_required("POSTGRES_PASSWORD"),
        },
        volumes=["postgres:/var/lib/postgresql/data"],
        tmpfs=[SMALL_TMP, "/var/run/postgresql:uid=999,gid=999,mode=0775"],
        networks=["data"],
        healthcheck={
            "test": ["CMD", "pg_isready", "--username=mongars", "--dbname=mongars"],
            "interval": "5s",
            "timeout": "5s",
            "retries": 12,
            "start_period": "30s",
        },
        mem_limit="${POSTGRES_MEMORY:-1g}",
        shm_size="256m",
        stop_grace_period="60s",
    )


def _ray_head(config: ExportConfig) -> ServiceFields:
    port = config.serving.port
    start = "ray start --head --block --port=6379 --dashboard-host=0.0.0.0 --dashboard-port=8265"
    environment = {
        **_ray_environment(),
        **QUIET_RAY,
        **PROXY_GUARD,
        **_passed_on(PROXY_VARIABLES),
        # By default Ray's workers run at low priority (nice), which the engines in them inherit.
        "RAY_worker_niceness": "0",
        "LLM_ADAPTER_REGISTRY_PATH": REGISTRY_PATH,
        # An existing image is not rebuilt: if it has another base, it prints that and exits.
        "RAY_HEAD_IMAGE": "${RAY_HEAD_IMAGE:-}",
    }
    return _service(
        _ray_image(config.ray.image),
        profiles=["ray"],
        command=["python", "/app/base_image.py", *start.split(), "--disable-usage-stats"],
        environment=environment,
        ports=[
            _published("RAY_HTTP_PORT", 8000, port),
            _published("RAY_DASHBOARD_PORT", 8265, 8265),
        ],
        volumes=[f"registry:{REGISTRY_PATH}:ro", f"{MODEL_VOLUME}:ro"],
        tmpfs=[RAY_TMP],
        depends_on={"models": {"condition": "service_completed_successfully"}},
        networks={"front": {"aliases": ["rayserve"]}},
        healthcheck=_health("http://127.0.0.1:8265", f"http://127.0.0.1:{port}"),
        shm_size="${RAY_SHM_SIZE:-2g}",
        mem_limit="${RAY_MEMORY:-8g}",
        stop_grace_period="30s",
    )


def _ray_deploy(config: ExportConfig) -> ServiceFields:
    """The Compose service, run once, that deploys the Serve application on the Ray cluster.

    Running it again with the same definition changes nothing.
    """
    serving = config.serving
    replica, scaling = serving.replica, serving.autoscaling
    embedding = replica.embedding
    environment = {
        **_ray_environment(),
        "RAY_HTTP_HOST": EVERY_INTERFACE,
        "RAY_HTTP_PORT": str(serving.port),
        "RAY_ROUTE_PREFIX": replica.generate_path,
        **_optional("MONGARS_REPLICAS", serving.replicas),
        **_optional("MONGARS_MAX_REPLICAS", "" if scaling is None else scaling.max_replicas),
        **_optional("MONGARS_SLOTS", replica.engine.slots),
        **_optional("MONGARS_CONTEXT_TOKENS", replica.engine.context_tokens),
        **_optional("MONGARS_PROMPT_CACHE_SCOPE", replica.prompt_cache_scope),
        **_optional("MONGARS_PROMPT_CACHE_MIB", replica.engine.prompt_cache_mib),
        **_optional("MONGARS_CPUS_PER_REPLICA", serving.cpus_per_replica),
        **_optional("MONGARS_GPUS_PER_REPLICA", serving.gpus_per_replica),
        **_optional("RAY_MODEL_TEMPERATURE", replica.sampling.temperature),
        **_optional("RAY_MODEL_TOP_P", replica.sampling.top_p),
        **_optional("RAY_MODEL_MAX_TOKENS", replica.sampling.max_tokens or ""),
        **_optional("MONGARS_LOG_LEVEL", replica.log_level),
        **_optional("MONGARS_MAX_SURGE_PERCENT", serving.max_surge_percent),
        **_embedding(embedding),
        **_passed_on((*MODEL_VARIABLES, *DEPLOY_VARIABLES)),
        "OLLAMA_HOST": "${OLLAMA_HOST:-}",
    }
    deploy = f"python -m modules.ray_service --deploy --address {DASHBOARD} --timeout 600"
    return _service(
        _ray_image(config.ray.image),
        profiles=["ray"],
        command=deploy.split(),
        restart="no",
        environment=environment,
        volumes=[f"{MODEL_VOLUME}:ro"],
        tmpfs=[SMALL_TMP],
        networks=["front"],
        depends_on={"ray-head": {"condition": "service_healthy"}},
        mem_limit="1g",
    )


def _ollama() -> ServiceFields:
    """The Compose service of Ollama. It runs as root, which owns its volume, without any Linux capability."""
    return _service(
        OLLAMA_IMAGE,
        profiles=["inference"],
        environment={"OLLAMA_MODELS": "/models", "HOME": "/tmp"},  # noqa: S108 (its own tmpfs)
        volumes=["ollama:/models"],
        tmpfs=[SMALL_TMP],
        networks=["front"],
        healthcheck={
            "test": ["CMD", "ollama", "list"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 6,
            "start_period": "20s",
        },
        mem_limit="${OLLAMA_MEMORY:-8g}",
    )


def _ray_image(image: Image) -> str:
    return f"${{MONGARS_RAY_IMAGE:-{image.reference}}}"


def _ray_environment() -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MONGARS_HOME": "/tmp/mongars",  # noqa: S108 (a volume of the container's own)
        **_required("RAY_AUTH_TOKEN", "RAY_SERVE_TOKEN"),
    }


def _embedding(embedding: EmbeddingSpec | None) -> dict[str, str]:
    return _optional("RAY_EMBEDDING_MODEL", "none" if embedding is None else embedding.model_name)


def _database_url() -> str:
    password = _required("POSTGRES_PASSWORD")["POSTGRES_PASSWORD"]
    return f"${{DATABASE_URL:-postgresql://mongars:{password}@postgres:5432/mongars}}"


def _required(*names: str) -> dict[str, str]:
    return {name: f"${{{name}:?{ASK}}}" for name in names}


def _passed_on(names: Iterable[str]) -> dict[str, str]:
    """An `environment` section with which Compose passes variables of its own environment on to a container.

    A variable that is not set there is empty in the container, which monGARS treats as not set.
    """
    return {name: f"${{{name}:-}}" for name in names}


def _optional(name: str, value: object) -> dict[str, str]:
    return {name: f"${{{name}:-{value}}}"}


def _published(variable: str, default: int, inside: int) -> str:
    return f"${{BIND_ADDRESS:-127.0.0.1}}:${{{variable}:-{default}}}:{inside}"


def _home() -> str:
    return f"{HOME_PATH}:uid=1000,gid=1000,mode=0700,size=64m"


def _health(*urls: str) -> ServiceFields:
    return {
        "test": ["CMD", "python", "/app/health.py", *urls],
        "interval": "10s",
        "timeout": "10s",
        "retries": 6,
        "start_period": "60s",
    }
