"""What an export describes: the Serve application, and where and how large each part runs.

The same models are the values of the Helm chart (`name` and `namespace` aside, which Helm has by
itself), so what is refused here is refused there.
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
"""What pyproject pins; images, operator and client must agree on it."""
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
"""Variables of the API's container; a second one of the same name would win or lose by chance."""
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
"""The same of Ray's containers."""

Variables = dict[str, str]


def names_besides(taken: tuple[str, ...]) -> dict[str, Any]:
    """For a JSON schema: names of variables, without those taken."""
    return {"propertyNames": {"pattern": VARIABLE_NAME, "not": {"enum": list(taken)}}}


def checked_variables(given: Variables, taken: tuple[str, ...]) -> Variables:
    """The variables. Raises `ValueError` for a name that is taken, or is none."""
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
    """A group of values: frozen, and closed to names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Image(ExportSection):
    """A container image. Never `latest`: a tag that moves makes two nodes run two programs."""

    repository: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9._/:-]*$")
    """Push the image to a registry of yours and name it here."""
    tag: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$",
        json_schema_extra={"not": {"const": "latest"}},
    )
    digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")
    """Pins the exact image; wins over the tag."""

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.tag == "latest":
            message = "tag: `latest` moves; name a version"
            raise ValueError(message)
        return self

    @property
    def reference(self) -> str:
        """As a container runtime reads it."""
        return (
            f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"
        )


class ResourceSize(ExportSection):
    """What one container asks for; memory is also its limit."""

    cpu: Quantity
    memory: Quantity


class Api(ExportSection):
    """The API processes behind the Service."""

    image: Image = Image(repository="mongars-api", tag=VERSION)
    replicas_min: int = Field(default=2, ge=1)
    replicas_max: int = Field(default=10, ge=1)
    cpu_percent: int = Field(default=70, ge=1, le=100)
    """Average use of the requested CPU at which another process is added."""
    size: ResourceSize = ResourceSize(cpu="500m", memory="2Gi")
    """The embedded fallback engine runs inside this memory."""
    environment: Variables = Field(
        default_factory=dict, json_schema_extra=names_besides(SET_FOR_THE_API)
    )
    """Further variables, e.g. RAY_CLIENT_TIMEOUT: \"30\"; secrets belong into the Secret."""

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
    """The Ray nodes that replicas run on."""

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
    """Where Ray's head keeps the cluster's state; `none`: a lost head is a new cluster."""

    storage: Literal["none", "redis", "rocksdb"] = "none"
    """`rocksdb` needs the feature gate GCSFaultToleranceEmbeddedStorage of KubeRay 1.7."""
    redis_address: str = Field(default="", pattern=r"^([A-Za-z0-9.-]+:[0-9]{1,5})?$")
    """`redis` only: HOST:PORT of a Redis outside the cluster; the password is in the Secret."""
    volume_size: Quantity = "1Gi"
    """`rocksdb` only."""
    storage_class: str = ""

    @model_validator(mode="after")
    def _address(self) -> Self:
        if self.storage == "redis" and not self.redis_address:
            message = "redis_address: redis storage needs HOST:PORT"
            raise ValueError(message)
        return self

    @property
    def redis_port(self) -> int:
        """The port in `redis_address`."""
        return int(self.redis_address.rpartition(":")[2])


class Ray(ExportSection):
    """The Ray cluster, run by the KubeRay operator."""

    image: Image = Image(repository="mongars-ray", tag=VERSION)
    """Its Ray must be of the version that monGARS pins."""
    head: ResourceSize = ResourceSize(cpu="1", memory="4Gi")
    workers: Workers = Workers()
    gcs: Gcs = Gcs()
    upgrade: Literal["NewCluster", "None"] = "NewCluster"
    """A changed cluster definition starts a second cluster beside the first and moves over;
    `None` where two do not fit: change it, then delete the RayCluster yourself."""
    environment: Variables = Field(
        default_factory=dict, json_schema_extra=names_besides(SET_FOR_RAY)
    )
    """Further variables of Ray's pods, e.g. MONGARS_MAX_CONNECTIONS: \"2000\" for Serve's proxy."""

    @field_validator("environment")
    @classmethod
    def _free(cls, value: Variables) -> Variables:
        return checked_variables(value, SET_FOR_RAY)


class Registry(ExportSection):
    """The volume with adapters that API and replicas share."""

    claim: bool = False
    """Make a claim for it. Without one, and without `existing_claim`, each pod has an empty folder:
    nothing reads adapters from it yet, and many clusters have no ReadWriteMany class."""
    size: Quantity = "10Gi"
    storage_class: str = ""
    """Empty: the cluster's default."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """ReadWriteOnce only where every pod runs on one node."""
    existing_claim: str = ""
    """A claim of yours, instead of one made here."""


class DatabaseService(ExportSection):
    """PostgreSQL: yours, named by DATABASE_URL in the Secret, or a small one that comes along."""

    bundled: bool = False
    """One PostgreSQL pod without replication or backups: for trying out."""
    port: int = Field(default=5432, ge=1, le=65535)
    """Where yours listens; network policies open this port."""
    image: Image = Image(repository="postgres", tag="17.6-bookworm")
    size: ResourceSize = ResourceSize(cpu="250m", memory="512Mi")
    volume_size: Quantity = "5Gi"
    storage_class: str = ""


class Secrets(ExportSection):
    """Names of Secrets that exist before the installation; no value is ever in a manifest."""

    name: SecretName = "mongars-secrets"
    """Keys: SECRET_KEY, MONGARS_BOOTSTRAP_API_KEY, RAY_SERVE_TOKEN; DATABASE_URL, or
    POSTGRES_PASSWORD for the bundled database; REDIS_PASSWORD with `gcs.storage: redis`."""
    image_pull: list[SecretName] = Field(default_factory=list)
    """Secrets of type `kubernetes.io/dockerconfigjson`, for images in a registry that asks for them."""
    ray_auth: SecretName = "mongars-ray-auth"
    """Key: auth_token, which Ray's dashboard and ports ask for."""


class Network(ExportSection):
    """Who may reach what; everything not named is refused. Further policies add to these."""

    api_clients: list[dict[str, Any]] = Field(default_factory=lambda: [{"namespaceSelector": {}}])
    """NetworkPolicy peers that may reach the API; default: every pod of the cluster."""
    operator: list[dict[str, Any]] = Field(default_factory=lambda: [dict(KUBERAY_OPERATOR)])
    """NetworkPolicy peers: the KubeRay operator, in any namespace."""
    extra_egress: list[dict[str, Any]] = Field(default_factory=list)
    """Egress rules for the API and Ray pods: object storage, an Ollama server."""


class ClusterReplica(ReplicaConfig):
    """A replica that other machines reach: it always asks for a token."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    # The API's largest body, twice: our client sends the last message in two forms.
    max_body_bytes: int = Field(default=2_065_536, ge=1024)
    embedding: EmbeddingSpec | None = Field(default_factory=EmbeddingSpec)
    """The model behind `/v1/embeddings`; null: that door is closed."""
    token_sha256: str = Field(default=TOKEN_FROM_ENVIRONMENT, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the bearer token callers must send. 64 zeros: of RAY_SERVE_TOKEN in the
    replica's environment, which the Secret provides."""


class ClusterServing(ServingConfig):
    """The application on machines of a cluster: what listens there listens on every interface."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    replica: ClusterReplica = Field(default_factory=ClusterReplica)
    host: Literal["0.0.0.0"] = EVERY_INTERFACE  # noqa: S104 (guarded by the token)


class ExportConfig(ExportSection):
    """Everything an export needs."""

    name: DnsLabel = "mongars"
    """Prefix of every object's name."""
    namespace: DnsLabel = "mongars"
    serving: ClusterServing = Field(default_factory=ClusterServing)
    """The Serve application; every name and bound as in `mongars.serving.config`."""
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
        """How long a worker's pod may take to stop: the replicas' drain, and HAProxy's 30 s."""
        return 40 + math.ceil(self.serving.drain_seconds)

    @property
    def endpoint(self) -> str:
        """The Serve endpoint inside the cluster; KubeRay names the Service after the RayService."""
        path = self.serving.replica.generate_path
        return f"http://{self.name}-serve-svc:{self.serving.port}{path}"


def replicas_per_node(workers: Workers, serving: ServingConfig) -> float:
    """How many replicas fit on one worker; infinity where they ask for neither CPUs nor GPUs."""
    limits = (
        (workers.cpus, serving.cpus_per_replica),
        (workers.gpus, serving.gpus_per_replica),
    )
    return min((int(has / asks) for has, asks in limits if asks), default=math.inf)


def installation(serving: ServingConfig) -> ExportConfig:
    """An installation of that application, on worker nodes that its replicas fit on."""
    node = Workers()
    cpus = max(node.cpus, math.ceil(serving.cpus_per_replica))
    size = Workers(cpus=cpus, gpus=math.ceil(serving.gpus_per_replica))
    nodes = math.ceil(serving.most_replicas / replicas_per_node(size, serving))
    workers = size.model_copy(update={"nodes_max": max(node.nodes_max, nodes)})
    return ExportConfig(serving=for_cluster(serving), ray=Ray(workers=workers))


def for_cluster(serving: ServingConfig) -> ClusterServing:
    """The application of this machine's settings, as a cluster runs it.

    Model files are left to each node's own MONGARS_CACHE (model folders, which have no place
    there, are at the same path everywhere), it listens on every interface, and the token comes
    from the environment of the replica.
    """
    values = serving.model_dump(mode="json")
    replica = values["replica"]
    for role in ("engine", "coding", "embedding"):
        if replica[role] is not None and KINDS[replica[role]["kind"]].model != "folder":
            replica[role]["model_path"] = ""
    replica["token_sha256"] = TOKEN_FROM_ENVIRONMENT
    return ClusterServing.model_validate({**values, "host": EVERY_INTERFACE})
