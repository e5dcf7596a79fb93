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
    """The labels of the Kubernetes objects and pods of one component, such as `api`."""
    return {"app.kubernetes.io/name": "mongars", **selector(config, component)}


def selector(config: ExportConfig, component: str) -> dict[str, str]:
    """The labels that select the pods of one component, such as `api`, of this installation."""
    return {
        "app.kubernetes.io/instance": config.name,
        "app.kubernetes.io/component": component,
    }


def metadata(config: ExportConfig, component: str, *, suffix: str) -> ManifestFields:
    """The `metadata` of a Kubernetes object: name, namespace and labels.

    The name is the installation's name and `suffix`; the labels are those of `component`, such as `api`.
    """
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
    """A Kubernetes pod template with one container, for an unprivileged user without access to the Kubernetes API.

    `component`, such as `api`, determines the labels. `container` is the specification of the container, and `volumes`
    are the pod's volumes, in Kubernetes' format. `user` is the user and group id; `extra` are further fields of the
    pod's specification, which replace those set here.
    """
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
    """A container of a pod, named `name`, that can write only into its volumes.

    `fields` are further fields of the container's specification, in Kubernetes' format; they replace those set here.
    """
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
    """Resource requests and limits of a container of that size. CPU has no limit, because throttling adds latency."""
    return {
        "requests": {"cpu": size.cpu, "memory": size.memory},
        "limits": {"memory": size.memory},
    }


def plain(**values: str) -> list[ManifestFields]:
    """Environment variables with the given values, by name, in the format of a container specification."""
    return [{"name": name, "value": value} for name, value in values.items()]


def secret(config: ExportConfig, *keys: str) -> list[ManifestFields]:
    """Environment variables, named as `keys`, with the values of these keys in the installation's Kubernetes Secret.

    The Secret is that of `config.secrets.name`. Kubernetes does not start a pod while one of the keys is missing.
    """
    return [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": config.secrets.name, "key": key}}}
        for key in keys
    ]


def database_url(config: ExportConfig) -> list[ManifestFields]:
    """The environment variable DATABASE_URL, in the format of a container specification.

    Its value is from the installation's Secret, or, with the bundled database, the URL of that; then the list also has
    POSTGRES_PASSWORD.
    """
    if not config.database.bundled:
        return secret(config, "DATABASE_URL")
    # Kubernetes expands $(NAME) from the variables above it.
    url = f"postgresql://mongars:$(POSTGRES_PASSWORD)@{config.name}-postgres:5432/mongars"
    return [*secret(config, "POSTGRES_PASSWORD"), *plain(DATABASE_URL=url)]


def spread(config: ExportConfig, component: str) -> list[ManifestFields]:
    """A list with the topology constraint that spreads the pods of a component over the nodes, as far as possible."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(config, component)},
        }
    ]


def empty(name: str, size: str) -> ManifestFields:
    """A pod's emptyDir volume with the name `name`.

    If it exceeds `size` (such as `1Gi`), Kubernetes evicts the pod, so that a pod cannot fill the node's disk.
    """
    return {"name": name, "emptyDir": {"sizeLimit": size}}


def mount(name: str, path: str) -> ManifestFields:
    """A container's volume mount: the pod's volume `name` at `path`."""
    return {"name": name, "mountPath": path}


def registry_volume(config: ExportConfig) -> ManifestFields:
    """A pod's volume with the adapters, shared by API and replicas; an emptyDir if no volume claim is configured."""
    if not (config.registry.claim or config.registry.existing_claim):
        return empty("registry", "1Gi")
    claim = config.registry.existing_claim or f"{config.name}-registry"
    return {"name": "registry", "persistentVolumeClaim": {"claimName": claim}}
