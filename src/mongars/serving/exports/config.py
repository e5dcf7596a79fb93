"""The configuration of an export: the Serve application, and the placement and size of each part.

The same models define the values of the Helm chart (except `name` and `namespace`, which Helm sets), so the same
values are valid in both.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mongars.engines.kinds import KINDS
from mongars.serving.config import (
    TOKEN_FROM_ENVIRONMENT,
    EmbeddingSpec,
    ReplicaConfig,
    ServingConfig,
)

VERSION = "0.1.0"
RAY_VERSION = "2.60.0"
"""The version of Ray that pyproject.toml pins; images, operator and client must use the same version."""
RAY_BASE_IMAGE = f"rayproject/ray:{RAY_VERSION}-py311-cpu"
EVERY_INTERFACE: Final = "0.0.0.0"  # noqa: S104 (inside a pod or container; see `ClusterServing`)
API_PORT = 8080
KUBERAY_OPERATOR = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
}

SET_FOR_THE_API = (
    "DATABASE_URL",
    "LLM_ADAPTER_REGISTRY_PATH",
    "MONGARS_BOOTSTRAP_API_KEY",
    "MONGARS_HOME",
    "MONGARS_HOST",
    "MONGARS_PORT",
    "MONGARS_PROMPT_CACHE_SCOPE",
    "POSTGRES_PASSWORD",
    "RAY_SERVE_TOKEN",
    "RAY_SERVE_URL",
    "SECRET_KEY",
    "USE_RAY_SERVE",
)
"""Variables that the export sets for the API's container, so the configuration must not set them."""

VARIABLE_NAME = "^[A-Za-z_][A-Za-z0-9_]*$"
SET_FOR_RAY = (
    "LLM_ADAPTER_REGISTRY_PATH",
    "MONGARS_HOME",
    "RAY_AUTH_TOKEN",
    "RAY_SERVE_ENABLE_HA_PROXY",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S",
    "RAY_SERVE_TOKEN",
    "RAY_START_HOOK",
    "RAY_USAGE_STATS_ENABLED",
    "RAY_USAGE_STATS_REPORT_URL",
    "RAY_gcs_rpc_server_reconnect_timeout_s",
    "RAY_health_check_period_ms",
    "RAY_worker_niceness",
)
"""Variables that the export sets for Ray's containers, so the configuration must not set them."""

Variables = dict[str, str]


def names_besides(taken: tuple[str, ...]) -> dict[str, Any]:
    """A JSON Schema rule for an object of environment variables: any valid name except those in `taken`.

    Returns the schema's key `propertyNames` with its value.
    """
    return {"propertyNames": {"pattern": VARIABLE_NAME, "not": {"enum": list(taken)}}}


def checked_variables(given: Variables, taken: tuple[str, ...]) -> Variables:
    """Check environment variables, by name, and return them unchanged.

    Raises `ValueError` for a name that is in `taken` (the export sets it) or is no valid variable name.
    """
    for name in given:
        if name in taken:
            message = f"{name} is set by the export itself"
            raise ValueError(message)
        if not re.fullmatch(VARIABLE_NAME, name):
            message = f"{name!r} is no name of a variable"
            raise ValueError(message)
    return given


Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
DnsLabel = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class ExportSection(BaseModel):
    """Base class of the sections of an export's configuration: immutable, unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Image(ExportSection):
    """A container image: `repository` with a `digest`, or with a `tag` if `digest` is empty.

    The tag `latest` is refused as invalid, since it can mean two versions on two nodes.
    """

    repository: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9._/:-]*$")
    """The name of the image in your registry, to which you have pushed it."""
    tag: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$",
        json_schema_extra={"not": {"const": "latest"}},
    )
    digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")
    """Pins the exact image; takes precedence over the tag."""

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.tag == "latest":
            message = "tag: `latest` moves; name a version"
            raise ValueError(message)
        return self

    @property
    def reference(self) -> str:
        """The image reference for a container runtime: `REPOSITORY@DIGEST` with a digest, else `REPOSITORY:TAG`."""
        return (
            f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"
        )


class ResourceSize(ExportSection):
    """The CPU and memory that one container requests, such as `500m` and `2Gi`; the memory is also its limit."""

    cpu: Quantity
    memory: Quantity


class Api(ExportSection):
    """The API processes: image, number and size of their pods, and further environment variables."""

    image: Image = Image(repository="mongars-api", tag=VERSION)
    replicas_min: int = Field(default=2, ge=1)
    replicas_max: int = Field(default=10, ge=1)
    cpu_percent: int = Field(default=70, ge=1, le=100)
    """Average use of the requested CPU, in percent, at which another process is added."""
    size: ResourceSize = ResourceSize(cpu="500m", memory="2Gi")
    """The embedded fallback engine runs inside this memory."""
    environment: Variables = Field(
        default_factory=dict, json_schema_extra=names_besides(SET_FOR_THE_API)
    )
    """Further variables, e.g. RAY_CLIENT_TIMEOUT: \"30\"; put secrets into the Secret."""

    @field_validator("environment")
    @classmethod
    def _free(cls, value: Variables) -> Variables:
        return checked_variables(value, SET_FOR_THE_API)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.replicas_max < self.replicas_min:
            message = f"replicas_max: must be at least replicas_min ({self.replicas_min})"
            raise ValueError(message)
        return self


class Workers(ExportSection):
    """The Ray worker nodes, on which replicas run: their number, and the size of each."""

    nodes_min: int = Field(default=1, ge=0)
    nodes_max: int = Field(default=4, ge=1)
    cpus: int = Field(default=2, ge=1)
    memory: Quantity = "4Gi"
    gpus: int = Field(default=0, ge=0)
    """NVIDIA GPUs per node."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.nodes_max < self.nodes_min:
            message = f"nodes_max: must be at least nodes_min ({self.nodes_min})"
            raise ValueError(message)
        return self


class Gcs(ExportSection):
    """Where the state of the Ray cluster is stored, so that the cluster survives the replacement of its head node.

    `storage`: `redis` (a Redis of yours at `redis_address`), `rocksdb` (a volume), or `none`: the state is not stored,
    and when the head node is replaced, a new cluster is started.
    """

    storage: Literal["none", "redis", "rocksdb"] = "none"
    """`rocksdb` needs the feature gate GCSFaultToleranceEmbeddedStorage of KubeRay 1.7."""
    redis_address: str = Field(default="", pattern=r"^([A-Za-z0-9.-]+:[0-9]{1,5})?$")
    """`redis` only: HOST:PORT of a Redis outside the cluster; the password is in the Secret."""
    volume_size: Quantity = "1Gi"
    """The size of the volume for `rocksdb`."""
    storage_class: str = ""

    @model_validator(mode="after")
    def _address(self) -> Self:
        if self.storage == "redis" and not self.redis_address:
            message = "redis_address: redis storage needs HOST:PORT"
            raise ValueError(message)
        return self

    @property
    def redis_port(self) -> int:
        """The port in `redis_address`. Raises `ValueError` if that is empty."""
        return int(self.redis_address.rpartition(":")[2])


class Ray(ExportSection):
    """The Ray cluster, run by the KubeRay operator: image, head, workers and the storage of its state."""

    image: Image = Image(repository="mongars-ray", tag=VERSION)
    """The image of Ray's nodes; its version of Ray must be the one that monGARS pins."""
    head: ResourceSize = ResourceSize(cpu="1", memory="4Gi")
    workers: Workers = Workers()
    gcs: Gcs = Gcs()
    upgrade: Literal["NewCluster", "None"] = "NewCluster"
    """What a changed cluster definition causes. `NewCluster`: a second cluster is started, and requests move to it.
    `None`: nothing until you delete the RayCluster; for Kubernetes clusters without room for two.
    """
    environment: Variables = Field(
        default_factory=dict, json_schema_extra=names_besides(SET_FOR_RAY)
    )
    """Further variables of Ray's pods, e.g. MONGARS_MAX_CONNECTIONS: \"2000\" for Serve's proxy."""

    @field_validator("environment")
    @classmethod
    def _free(cls, value: Variables) -> Variables:
        return checked_variables(value, SET_FOR_RAY)


class Registry(ExportSection):
    """The volume with the LoRA adapters, shared by API and replicas.

    It is the existing volume claim named `existing_claim`, or, if that is empty and `claim` is true, a new one; with
    neither, each pod has an empty volume of its own.
    """

    claim: bool = False
    """Create a volume claim. Without it, and without `existing_claim`, each pod has an empty folder:
    nothing reads adapters from it yet, and many clusters have no ReadWriteMany class.
    """
    size: Quantity = "10Gi"
    storage_class: str = ""
    """Storage class of the volume; empty: the cluster's default."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """Access mode of the volume; ReadWriteOnce only if every pod runs on one node."""
    existing_claim: str = ""
    """The name of an existing volume claim, used instead of a new one."""


class DatabaseService(ExportSection):
    """The PostgreSQL server: a small one in the cluster if `bundled`, else that in DATABASE_URL of the API's Secret."""

    bundled: bool = False
    """Run one PostgreSQL pod without replication or backups, for evaluation."""
    port: int = Field(default=5432, ge=1, le=65535)
    """The port of your PostgreSQL; network policies allow it."""
    image: Image = Image(repository="postgres", tag="17.6-bookworm")
    size: ResourceSize = ResourceSize(cpu="250m", memory="512Mi")
    volume_size: Quantity = "5Gi"
    storage_class: str = ""


class Secrets(ExportSection):
    """Names of Kubernetes Secrets that must exist before the installation; manifests never contain their values."""

    name: SecretName = "mongars-secrets"
    """The Secret with the keys SECRET_KEY, MONGARS_BOOTSTRAP_API_KEY, RAY_SERVE_TOKEN; DATABASE_URL, or
    POSTGRES_PASSWORD for the bundled database; REDIS_PASSWORD with `gcs.storage: redis`.
    """
    image_pull: list[SecretName] = Field(default_factory=list)
    """Secrets of type `kubernetes.io/dockerconfigjson`, for images in a registry that requires them."""
    ray_auth: SecretName = "mongars-ray-auth"
    """The Secret with the key auth_token, which Ray's dashboard and ports require."""


class Network(ExportSection):
    """The connections that the installation's network policies allow; all others of its pods are refused.

    Policies that are added by other means can only allow more.
    """

    api_clients: list[dict[str, Any]] = Field(default_factory=lambda: [{"namespaceSelector": {}}])
    """NetworkPolicy peers that may reach the API; default: every pod of the cluster."""
    operator: list[dict[str, Any]] = Field(default_factory=lambda: [dict(KUBERAY_OPERATOR)])
    """NetworkPolicy peers that may reach Ray's head: the KubeRay operator, in any namespace."""
    extra_egress: list[dict[str, Any]] = Field(default_factory=list)
    """Egress rules for the API and Ray pods: object storage, an Ollama server."""


class ClusterReplica(ReplicaConfig):
    """Configuration of a replica that other machines can reach: requests always need a token."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    # Twice the API's largest body: the client sends the last message in two fields.
    max_body_bytes: int = Field(default=2_065_536, ge=1024)
    embedding: EmbeddingSpec | None = Field(default_factory=EmbeddingSpec)
    """The model behind `/v1/embeddings`; null: no embeddings are served."""
    token_sha256: str = Field(default=TOKEN_FROM_ENVIRONMENT, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the bearer token that requests must carry. 64 zeros: the digest of RAY_SERVE_TOKEN in the
    replica's environment, which the Secret provides.
    """


class ClusterServing(ServingConfig):
    """Configuration of the Serve application on a cluster, where servers listen on every interface."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    replica: ClusterReplica = Field(default_factory=ClusterReplica)
    host: Literal["0.0.0.0"] = EVERY_INTERFACE  # noqa: S104 (guarded by the token)


class ExportConfig(ExportSection):
    """The whole configuration of an export (the files for Kubernetes, Helm, Compose or `serve deploy`)."""

    name: DnsLabel = "mongars"
    """Prefix of every object's name."""
    namespace: DnsLabel = "mongars"
    serving: ClusterServing = Field(default_factory=ClusterServing)
    """The Serve application; names and limits are those of `mongars.serving.config`."""
    api: Api = Api()
    ray: Ray = Ray()
    registry: Registry = Registry()
    database: DatabaseService = DatabaseService()
    secrets: Secrets = Secrets()
    network: Network = Network()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        workers, serving = self.ray.workers, self.serving
        if serving.cpus_per_replica > workers.cpus:
            message = f"serving.cpus_per_replica: a worker has {workers.cpus} CPUs"
            raise ValueError(message)
        if serving.gpus_per_replica > workers.gpus:
            message = f"serving.gpus_per_replica: a worker has {workers.gpus} GPUs"
            raise ValueError(message)
        capacity = workers.nodes_max * replicas_per_node(workers, serving)
        if serving.most_replicas > capacity:
            message = (
                f"serving.replicas: {serving.most_replicas} do not fit on {workers.nodes_max} workers,"
                f" which have room for {capacity:g}; raise ray.workers.nodes_max, cpus or gpus"
            )
            raise ValueError(message)
        return self

    @property
    def grace_seconds(self) -> int:
        """Seconds a worker's pod may take to stop: the replicas' drain time plus 40 s, of which HAProxy needs 30 s."""
        return 40 + math.ceil(self.serving.drain_seconds)

    @property
    def endpoint(self) -> str:
        """The URL of the Serve endpoint inside the cluster, with the host name that KubeRay gives to the Service."""
        path = self.serving.replica.generate_path
        return f"http://{self.name}-serve-svc:{self.serving.port}{path}"


def replicas_per_node(workers: Workers, serving: ServingConfig) -> float:
    """How many replicas fit on one worker node by their CPUs and GPUs; infinity if a replica requests neither."""
    limits = (
        (workers.cpus, serving.cpus_per_replica),
        (workers.gpus, serving.gpus_per_replica),
    )
    return min((int(has / asks) for has, asks in limits if asks), default=math.inf)


def installation(serving: ServingConfig) -> ExportConfig:
    """The default configuration of an export for a Serve application.

    Worker nodes are as large, and may be as many, as its replicas need.
    """
    node = Workers()
    cpus = max(node.cpus, math.ceil(serving.cpus_per_replica))
    size = Workers(cpus=cpus, gpus=math.ceil(serving.gpus_per_replica))
    nodes = math.ceil(serving.most_replicas / replicas_per_node(size, serving))
    workers = size.model_copy(update={"nodes_max": max(node.nodes_max, nodes)})
    return ExportConfig(serving=for_cluster(serving), ray=Ray(workers=workers))


def for_cluster(serving: ServingConfig) -> ClusterServing:
    """Convert the configuration of the Serve application on this machine to one for a cluster of several machines.

    Model files are taken from each node's MONGARS_CACHE (model folders from the same path on every node), the servers
    listen on every interface, and requests need the token in the environment variable RAY_SERVE_TOKEN of each replica.
    """
    values = serving.model_dump(mode="json")
    replica = values["replica"]
    for role in ("engine", "coding", "embedding"):
        if replica[role] is not None and KINDS[replica[role]["kind"]].model != "folder":
            replica[role]["model_path"] = ""
    replica["token_sha256"] = TOKEN_FROM_ENVIRONMENT
    return ClusterServing.model_validate({**values, "host": EVERY_INTERFACE})
