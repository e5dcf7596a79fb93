"""The Ray cluster with the Serve application: a `RayService` object of the KubeRay operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.serving.config import PROXY_GUARD, QUIET_RAY
from mongars.serving.definition import deploy_schema
from mongars.serving.exports.config import EVERY_INTERFACE, RAY_VERSION, ResourceSize
from mongars.serving.exports.objects import pods
from mongars.serving.exports.text import as_yaml

if TYPE_CHECKING:
    from mongars.serving.exports.config import ExportConfig
    from mongars.serving.exports.objects.pods import ManifestFields

HEAD = "ray-head"
WORKER = "ray-worker"
GCS_PORT = 6379
DASHBOARD_PORT = 8265
TMP_SIZE = "8Gi"
"""The size of `/tmp`, for Ray's sockets, logs and spilled objects."""
AUTOSCALER_SIZE = ResourceSize(cpu="200m", memory="512Mi")
API_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 (a folder)


def service_account(config: ExportConfig) -> ManifestFields:
    """The Kubernetes ServiceAccount of Ray's pods; KubeRay grants it the rights that Ray's autoscaler needs."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": pods.metadata(config, HEAD, suffix="-ray"),
        "automountServiceAccountToken": False,
    }


def ray_service(config: ExportConfig) -> ManifestFields:
    """The RayService (a KubeRay object): the Ray cluster, with the definition of the Serve application to run on it."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": pods.metadata(config, HEAD, suffix=""),
        "spec": {
            # Requests reach replicas on workers; the head keeps the cluster's state.
            "excludeHeadPodFromServeSvc": True,
            "upgradeStrategy": {"type": config.ray.upgrade},
            "serveConfigV2": as_yaml(deploy_schema(config.serving)),
            "rayClusterConfig": _cluster(config),
        },
    }


def disruption_budget(config: ExportConfig) -> ManifestFields:
    """The PodDisruptionBudget of Ray's pods: Kubernetes evicts none if fewer than the minimum would remain.

    Kubernetes cannot derive the desired number of pods from a RayService, so `minAvailable` is a number: the head plus
    the minimum of workers, minus one. With the minimum of workers, at most one pod is evicted at a time.
    """
    ray_pods = {
        "matchLabels": {"app.kubernetes.io/instance": config.name},
        "matchExpressions": [
            {"key": "app.kubernetes.io/component", "operator": "In", "values": [HEAD, WORKER]}
        ],
    }
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": pods.metadata(config, HEAD, suffix="-ray"),
        "spec": {"minAvailable": config.ray.workers.nodes_min, "selector": ray_pods},
    }


def autoscaled(config: ExportConfig) -> bool:
    """Whether Ray's autoscaler is to add and remove worker nodes: their minimum is below their maximum."""
    return config.ray.workers.nodes_min < config.ray.workers.nodes_max


def _cluster(config: ExportConfig) -> ManifestFields:
    cluster: ManifestFields = {
        "rayVersion": RAY_VERSION,
        # Dashboard and job interface execute code by design, so they require the token.
        "authOptions": {"mode": "token", "secretName": config.secrets.ray_auth},
        "headGroupSpec": _head(config),
        "workerGroupSpecs": [_workers(config)],
    }
    if autoscaled(config):
        cluster["enableInTreeAutoscaling"] = True
        cluster["autoscalerOptions"] = {
            "idleTimeoutSeconds": 300,
            "resources": pods.resources(AUTOSCALER_SIZE),
            "securityContext": pods.locked_down(),
            "volumeMounts": [
                {**pods.mount("kubernetes-api", API_TOKEN_PATH), "readOnly": True},
                pods.mount("tmp", "/tmp"),  # noqa: S108 (a volume of the pod's own)
            ],
        }
    if config.ray.gcs.storage != "none":
        cluster["gcsFaultToleranceOptions"] = _gcs(config)
    return cluster


def _gcs(config: ExportConfig) -> ManifestFields:
    gcs = config.ray.gcs
    if gcs.storage == "redis":
        reference = {"name": config.secrets.name, "key": "REDIS_PASSWORD"}
        return {
            "backend": "redis",
            "redisAddress": gcs.redis_address,
            "redisPassword": {"valueFrom": {"secretKeyRef": reference}},
        }
    storage: ManifestFields = {"size": gcs.volume_size, "accessModes": ["ReadWriteOnce"]}
    if gcs.storage_class:
        storage["storageClassName"] = gcs.storage_class
    return {"backend": "rocksdb", "storage": storage}


def _head(config: ExportConfig) -> ManifestFields:
    ports = {"gcs-server": GCS_PORT, "dashboard": DASHBOARD_PORT, "serve": config.serving.port}
    volumes = [pods.empty("tmp", TMP_SIZE), pods.registry_volume(config)]
    if autoscaled(config):
        volumes.append(_api_token())
    template = pods.pod_template(
        config,
        HEAD,
        container=_container(config, HEAD, ports, resources=pods.resources(config.ray.head)),
        volumes=volumes,
        serviceAccountName=f"{config.name}-ray",
    )
    # No replica is placed on the head: an overloaded head takes the cluster down.
    parameters = {"num-cpus": "0", "dashboard-host": EVERY_INTERFACE}
    return {"rayStartParams": parameters, "template": template}


def _workers(config: ExportConfig) -> ManifestFields:
    workers = config.ray.workers
    amounts = {"cpu": str(workers.cpus), "memory": workers.memory}
    if workers.gpus:
        amounts["nvidia.com/gpu"] = str(workers.gpus)
    resources = {"requests": amounts, "limits": dict(amounts)}
    ports = {"serve": config.serving.port}
    template = pods.pod_template(
        config,
        WORKER,
        container=_container(config, WORKER, ports, resources=resources),
        volumes=[pods.empty("tmp", TMP_SIZE), pods.registry_volume(config)],
        serviceAccountName=f"{config.name}-ray",
        terminationGracePeriodSeconds=config.grace_seconds,
        topologySpreadConstraints=pods.spread(config, WORKER),
    )
    if workers.node_selector:
        template["spec"]["nodeSelector"] = workers.node_selector
    if workers.tolerations:
        template["spec"]["tolerations"] = workers.tolerations
    return {
        "groupName": "replicas",
        "replicas": workers.nodes_min,
        "minReplicas": workers.nodes_min,
        "maxReplicas": workers.nodes_max,
        "rayStartParams": {"num-cpus": str(workers.cpus)},
        "template": template,
    }


def _container(
    config: ExportConfig, name: str, ports: dict[str, int], *, resources: ManifestFields
) -> ManifestFields:
    environment = pods.plain(
        **QUIET_RAY,
        # By default Ray's workers run at low priority (nice), which the engines in them inherit.
        RAY_worker_niceness="0",
        MONGARS_HOME=f"{_TMP}/mongars",
        LLM_ADAPTER_REGISTRY_PATH=pods.REGISTRY_PATH,
        **PROXY_GUARD,
    )
    if config.serving.haproxy:
        environment += pods.plain(RAY_SERVE_ENABLE_HA_PROXY="1")
    if name == HEAD:  # a lost node is noticed in seconds (docs/guide/cluster.md)
        environment += pods.plain(
            RAY_health_check_period_ms="1000", RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S="2"
        )
    elif config.ray.gcs.storage != "none":  # seconds for which replicas keep serving without a head
        environment += pods.plain(RAY_gcs_rpc_server_reconnect_timeout_s="600")
    registry = {**pods.mount("registry", pods.REGISTRY_PATH), "readOnly": True}
    return pods.container(
        name,
        config.ray.image,
        env=[
            *environment,
            *pods.plain(**dict(sorted(config.ray.environment.items()))),
            *pods.secret(config, "RAY_SERVE_TOKEN"),
        ],
        ports=[{"name": key, "containerPort": port} for key, port in ports.items()],
        resources=resources,
        volumeMounts=[pods.mount("tmp", _TMP), registry],
    )


_TMP = "/tmp"  # noqa: S108 (a volume of the pod's own)


def _api_token() -> ManifestFields:
    """A pod's volume with a token for the Kubernetes API, which only the container of Ray's autoscaler mounts."""
    own_namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    return {
        "name": "kubernetes-api",
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {
                    "configMap": {
                        "name": "kube-root-ca.crt",
                        "items": [{"key": "ca.crt", "path": "ca.crt"}],
                    }
                },
                {"downwardAPI": {"items": [own_namespace]}},
            ]
        },
    }
