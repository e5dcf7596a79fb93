"""The Compose export: the whole stack on one machine, CPU-only by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.errors import ConfigurationError
from mongars.serving.config import Autoscaling
from mongars.serving.exports.compose_services import services
from mongars.serving.exports.config import ClusterServing
from mongars.serving.exports.text import as_file

if TYPE_CHECKING:
    from mongars.serving.exports.config import ExportConfig

ABOUT = """
docker compose up --build              the API with its own engine, and PostgreSQL
COMPOSE_PROFILES=ray docker compose up --build          the same, answering from Ray
COMPOSE_PROFILES=ray,inference OLLAMA_HOST=http://ollama:11434 docker compose up --build
Before the first start: sh deploy/compose/secrets.sh   (docs/guide/compose.md)
"""
ABOUT_GPU = """
Beside docker-compose.yml; adds nothing but GPU devices, for machines with NVIDIA's container toolkit:
COMPOSE_PROFILES=ray docker compose -f docker-compose.yml -f docker-compose.gpu.yml up --build
"""

CARRIED = {
    "autoscaling.min_replicas",
    "autoscaling.max_replicas",
    "cpus_per_replica",
    "gpus_per_replica",
    "replica.engine.context_tokens",
    "replica.engine.prompt_cache_mib",
    "replica.engine.slots",
    "replica.generate_path",
    "replica.log_level",
    "replica.prompt_cache_scope",
    "replica.sampling.max_tokens",
    "replica.sampling.temperature",
    "replica.sampling.top_p",
    "replicas",
    "max_surge_percent",
    "replica.embedding",
}
"""The settings of an application that a Compose export can express: those that an environment variable sets."""


def files(config: ExportConfig, *, source: str = ".") -> dict[str, str]:
    """The files of the Compose export: both Compose files and a script that generates secrets; relative path to text.

    Paths: `docker-compose.yml`, `docker-compose.gpu.yml` and `deploy/compose/secrets.sh`. `source` is the path from
    `docker-compose.yml` to the folder of this repository, from which images are built.

    Raises `ConfigurationError` if the application has a setting that no environment variable can set.
    """
    _require_carriable(config.serving)
    project: dict[str, Any] = {
        "name": config.name,
        "services": services(config, source=source),
        # The network `data` is internal: only the API and the migrations reach the database.
        "networks": {"front": {}, "data": {"internal": True}},
        "volumes": {"registry": {}, "postgres": {}, "ollama": {}, "models": {}, "model-files": {}},
    }
    return {
        "docker-compose.yml": as_file(project, about=ABOUT.strip()),
        "docker-compose.gpu.yml": as_file(_gpu(), about=ABOUT_GPU.strip()),
        "deploy/compose/secrets.sh": SECRETS,
    }


def _gpu() -> dict[str, Any]:
    device = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    reservation = {"deploy": {"resources": {"reservations": {"devices": [device]}}}}
    return {"services": {"ray-head": reservation, "ollama": reservation}}


def _require_carriable(serving: ClusterServing) -> None:
    scaling = serving.autoscaling
    default = ClusterServing(autoscaling=None if scaling is None else Autoscaling())
    given, known = _flat(serving.model_dump(mode="json")), _flat(default.model_dump(mode="json"))
    lost = {
        name for name in given if name not in CARRIED and given[name] != known.get(name, "absent")
    }
    if scaling is not None and scaling.min_replicas != serving.replicas:
        lost.add("autoscaling.min_replicas other than replicas")
    if lost:
        message = (
            f"Compose cannot carry {', '.join(sorted(lost))}: there the application is described by"
            " environment variables. Export k8s, helm or serve, or use the default."
        )
        raise ConfigurationError(message)


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        found |= {f"{prefix}{key}": value} if inner is None else inner
    return found


SECRETS = """\
#!/bin/sh
# Adds the secrets that docker-compose.yml requires to .env, and keeps those that are there.
# Usage, in the folder of docker-compose.yml: sh deploy/compose/secrets.sh
set -eu
umask 077
touch .env
chmod 600 .env
for name in POSTGRES_PASSWORD SECRET_KEY MONGARS_BOOTSTRAP_API_KEY RAY_AUTH_TOKEN RAY_SERVE_TOKEN; do
  if ! grep -q "^$name=." .env; then
    value=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')
    printf '%s=%s\\n' "$name" "$value" >>.env
    echo "made $name"
  fi
done
"""
