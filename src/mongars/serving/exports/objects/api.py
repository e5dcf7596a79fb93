"""The API: Deployment, Service, autoscaler, disruption budget, and the migration Job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.serving.exports.config import API_PORT, EVERY_INTERFACE, ResourceSize
from mongars.serving.exports.objects import pods

if TYPE_CHECKING:
    from mongars.serving.exports.config import ExportConfig
    from mongars.serving.exports.objects.pods import ManifestFields

API = "api"
MIGRATIONS = "migrations"
MIGRATION_SIZE = ResourceSize(cpu="100m", memory="512Mi")


def service_account(config: ExportConfig) -> ManifestFields:
    """The Kubernetes ServiceAccount of all pods except Ray's; no pod mounts its token."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": pods.metadata(config, API, suffix=""),
        "automountServiceAccountToken": False,
    }


def deployment(config: ExportConfig) -> ManifestFields:
    """The Kubernetes Deployment of the API processes. It sets no `replicas`, since the autoscaler sets them."""
    template = pods.pod_template(
        config,
        API,
        container=_container(config),
        volumes=[
            pods.empty("home", "256Mi"),
            pods.empty("tmp", "1Gi"),
            pods.registry_volume(config),
        ],
        terminationGracePeriodSeconds=30,
        topologySpreadConstraints=pods.spread(config, API),
    )
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": pods.metadata(config, API, suffix="-api"),
        "spec": {
            "selector": {"matchLabels": pods.selector(config, API)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": template,
        },
    }


def _container(config: ExportConfig) -> ManifestFields:
    environment = [
        *pods.plain(
            MONGARS_HOST=EVERY_INTERFACE,
            MONGARS_PORT=str(API_PORT),
            MONGARS_HOME=pods.HOME_PATH,
            LLM_ADAPTER_REGISTRY_PATH=pods.REGISTRY_PATH,
            USE_RAY_SERVE="true",
            RAY_SERVE_URL=config.endpoint,
            MONGARS_PROMPT_CACHE_SCOPE=config.serving.replica.prompt_cache_scope,
        ),
        *pods.plain(**dict(sorted(config.api.environment.items()))),
        *pods.secret(config, "RAY_SERVE_TOKEN", "SECRET_KEY", "MONGARS_BOOTSTRAP_API_KEY"),
        *pods.database_url(config),
    ]
    return pods.container(
        "api",
        config.api.image,
        command=["mongars", "api"],
        env=environment,
        ports=[{"name": "http", "containerPort": API_PORT}],
        # The database may not be up yet, and the schema is checked before the port opens.
        startupProbe=_probe("/healthz", period=2, failures=90),
        livenessProbe=_probe("/healthz", period=10, failures=3),
        readinessProbe=_probe("/readyz", period=5, failures=2),
        resources=pods.resources(config.api.size),
        volumeMounts=[
            pods.mount("home", pods.HOME_PATH),
            pods.mount("tmp", "/tmp"),  # noqa: S108 (a volume of the pod's own)
            pods.mount("registry", pods.REGISTRY_PATH),
        ],
    )


def _probe(path: str, *, period: int, failures: int) -> ManifestFields:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def service(config: ExportConfig) -> ManifestFields:
    """The Kubernetes Service through which the API is reached inside the cluster."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": pods.metadata(config, API, suffix="-api"),
        "spec": {
            "selector": pods.selector(config, API),
            "ports": [{"name": "http", "port": API_PORT, "targetPort": "http"}],
        },
    }


def autoscaler(config: ExportConfig) -> ManifestFields:
    """The HorizontalPodAutoscaler of the API processes, by their CPU use."""
    target = {"type": "Utilization", "averageUtilization": config.api.cpu_percent}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": pods.metadata(config, API, suffix="-api"),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": f"{config.name}-api",
            },
            "minReplicas": config.api.replicas_min,
            "maxReplicas": config.api.replicas_max,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def disruption_budget(config: ExportConfig) -> ManifestFields:
    """The PodDisruptionBudget of the API: Kubernetes evicts at most one of its pods at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": pods.metadata(config, API, suffix="-api"),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": pods.selector(config, API)},
        },
    }


def migrations(config: ExportConfig) -> ManifestFields:
    """The Kubernetes Job that waits for the database and then migrates its schema."""
    job_container = pods.container(
        "migrations",
        config.api.image,
        command=["python", "init_db.py"],
        env=[*pods.plain(MONGARS_HOME=pods.HOME_PATH), *pods.database_url(config)],
        resources=pods.resources(MIGRATION_SIZE),
        volumeMounts=[
            pods.mount("home", pods.HOME_PATH),
            pods.mount("tmp", "/tmp"),  # noqa: S108 (a volume of the pod's own)
        ],
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": pods.metadata(config, MIGRATIONS, suffix="-migrations"),
        "spec": {
            "backoffLimit": 4,
            "activeDeadlineSeconds": 900,
            # Deleted after an hour, so that the next release can create a job of the same name.
            "ttlSecondsAfterFinished": 3600,
            "template": pods.pod_template(
                config,
                MIGRATIONS,
                container=job_container,
                volumes=[pods.empty("home", "256Mi"), pods.empty("tmp", "1Gi")],
                restartPolicy="OnFailure",
            ),
        },
    }
