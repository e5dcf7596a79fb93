"""The parts that all pods have in common: labels, service account, and minimal privileges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mongars.serving.exports.config import ExportConfig, Image, ResourceSize

ManifestFields = dict[str, Any]

USER = 1000
"""The user id in the images of API and Ray; the same, since both access the registry's files."""
POSTGRES_USER = 999
REGISTRY_PATH = "/var/lib/mongars-registry"
HOME_PATH = "/var/lib/mongars"


def labels(config: ExportConfig, component: str) -> dict[str, str]:
    """The labels of a component's objects and pods."""
    return {"app.kubernetes.io/name": "mongars", **selector(config, component)}


def selector(config: ExportConfig, component: str) -> dict[str, str]:
    """The labels that select the pods of one component."""
    return {
        "app.kubernetes.io/instance": config.name,
        "app.kubernetes.io/component": component,
    }


def metadata(config: ExportConfig, component: str, *, suffix: str) -> ManifestFields:
    """Name (the installation's name and `suffix`), namespace and labels of an object."""
    return {
        "name": f"{config.name}{suffix}",
        "namespace": config.namespace,
        "labels": labels(config, component),
    }


def pod_template(
    config: ExportConfig,
    component: str,
    *,
    container: ManifestFields,
    volumes: list[ManifestFields],
    user: int = USER,
    **extra: Any,  # noqa: ANN401 (further fields of the pod's specification)
) -> ManifestFields:
    """A pod template that runs as an unprivileged user, without a token for the Kubernetes API."""
    return {
        "metadata": {"labels": labels(config, component)},
        "spec": {
            "serviceAccountName": config.name,
            "automountServiceAccountToken": False,
            # Kubernetes' variables for Services (NAME_PORT=tcp://...) could be read as settings.
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "runAsGroup": user,
                "fsGroup": user,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": volumes,
            **_pull_secrets(config),
            **extra,
        },
    }


def _pull_secrets(config: ExportConfig) -> ManifestFields:
    names = config.secrets.image_pull
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}


def container(name: str, image: Image, **fields: Any) -> ManifestFields:  # noqa: ANN401 (as above)
    """A container that can write only into its volumes."""
    return {
        "name": name,
        "image": image.reference,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": locked_down(),
        **fields,
    }


def locked_down() -> ManifestFields:
    """The security context of a container: unprivileged, no capabilities, read-only root file system."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def resources(size: ResourceSize) -> ManifestFields:
    """Requests and limits of a container. CPU has no limit, because throttling adds latency."""
    return {
        "requests": {"cpu": size.cpu, "memory": size.memory},
        "limits": {"memory": size.memory},
    }


def plain(**values: str) -> list[ManifestFields]:
    """Environment variables with the given values, in the format of a container specification."""
    return [{"name": name, "value": value} for name, value in values.items()]


def secret(config: ExportConfig, *keys: str) -> list[ManifestFields]:
    """Environment variables with the values of `keys` in the Secret that `config.secrets.name` names.

    Kubernetes does not start a pod while one of the keys is missing.
    """
    return [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": config.secrets.name, "key": key}}}
        for key in keys
    ]


def database_url(config: ExportConfig) -> list[ManifestFields]:
    """The environment variable DATABASE_URL: from the Secret of `secret`, or the URL of the bundled database.

    For the bundled database, POSTGRES_PASSWORD is set as well.
    """
    if not config.database.bundled:
        return secret(config, "DATABASE_URL")
    # Kubernetes expands $(NAME) from the variables above it.
    url = f"postgresql://mongars:$(POSTGRES_PASSWORD)@{config.name}-postgres:5432/mongars"
    return [*secret(config, "POSTGRES_PASSWORD"), *plain(DATABASE_URL=url)]


def spread(config: ExportConfig, component: str) -> list[ManifestFields]:
    """A topology constraint that spreads the pods of a component over the nodes, if there are several."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(config, component)},
        }
    ]


def empty(name: str, size: str) -> ManifestFields:
    """An emptyDir volume. If it exceeds `size`, the pod is evicted, so that it cannot fill the node's disk."""
    return {"name": name, "emptyDir": {"sizeLimit": size}}


def mount(name: str, path: str) -> ManifestFields:
    """A volume mount: the volume `name` at `path`."""
    return {"name": name, "mountPath": path}


def registry_volume(config: ExportConfig) -> ManifestFields:
    """The volume with the adapters, shared by API and replicas; an emptyDir if no volume claim is configured."""
    if not (config.registry.claim or config.registry.existing_claim):
        return empty("registry", "1Gi")
    claim = config.registry.existing_claim or f"{config.name}-registry"
    return {"name": "registry", "persistentVolumeClaim": {"claimName": claim}}
