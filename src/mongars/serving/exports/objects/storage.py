"""The volume of the adapter registry, and the bundled database with its volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.serving.exports.objects import pods

if TYPE_CHECKING:
    from mongars.serving.exports.config import ExportConfig
    from mongars.serving.exports.objects.pods import ManifestFields

POSTGRES = "postgres"


def registry_claim(config: ExportConfig) -> ManifestFields:
    """The PersistentVolumeClaim for the adapters; ReadWriteMany by default, since API pods run on several nodes."""
    registry = config.registry
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": pods.metadata(config, "registry", suffix="-registry"),
        "spec": _claim([registry.access_mode], registry.size, storage_class=registry.storage_class),
    }


def postgres(config: ExportConfig) -> list[ManifestFields]:
    """The bundled database: a Kubernetes StatefulSet with one PostgreSQL pod, and its Service."""
    selector = pods.selector(config, POSTGRES)
    database = config.database
    claim = {
        "metadata": {"name": "data"},
        "spec": _claim(
            ["ReadWriteOnce"], database.volume_size, storage_class=database.storage_class
        ),
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": pods.metadata(config, POSTGRES, suffix="-postgres"),
            "spec": {
                "serviceName": f"{config.name}-postgres",
                "replicas": 1,
                "selector": {"matchLabels": selector},
                "template": _postgres_pod(config),
                "volumeClaimTemplates": [claim],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": pods.metadata(config, POSTGRES, suffix="-postgres"),
            "spec": {
                "selector": selector,
                "ports": [{"name": "postgres", "port": 5432, "targetPort": "postgres"}],
            },
        },
    ]


def _postgres_pod(config: ExportConfig) -> ManifestFields:
    data = "/var/lib/postgresql/data"
    ready = {"exec": {"command": ["pg_isready", "--username=mongars", "--dbname=mongars"]}}
    container = pods.container(
        "postgres",
        config.database.image,
        env=[
            # A folder below the mount, since the mount itself may contain lost+found.
            *pods.plain(POSTGRES_USER="mongars", POSTGRES_DB="mongars", PGDATA=f"{data}/pgdata"),
            *pods.secret(config, "POSTGRES_PASSWORD"),
        ],
        ports=[{"name": "postgres", "containerPort": 5432}],
        startupProbe={**ready, "periodSeconds": 2, "failureThreshold": 60},
        livenessProbe={**ready, "periodSeconds": 10, "failureThreshold": 6},
        readinessProbe={**ready, "periodSeconds": 5},
        resources=pods.resources(config.database.size),
        volumeMounts=[
            pods.mount("data", data),
            pods.mount("run", "/var/run/postgresql"),
            pods.mount("tmp", "/tmp"),  # noqa: S108 (a volume of the pod's own)
        ],
    )
    return pods.pod_template(
        config,
        POSTGRES,
        container=container,
        volumes=[pods.empty("run", "64Mi"), pods.empty("tmp", "1Gi")],
        user=pods.POSTGRES_USER,
        terminationGracePeriodSeconds=60,
    )


def _claim(modes: list[str], size: str, *, storage_class: str) -> ManifestFields:
    claim: ManifestFields = {"accessModes": modes, "resources": {"requests": {"storage": size}}}
    if storage_class:
        claim["storageClassName"] = storage_class
    return claim
