"""What the Serve application is made of; travels as JSON in the arguments of the application.

Engines and limits are part of the code version: changing them replaces replicas. `sampling`
travels as `user_config`: changing it reaches running replicas and restarts nothing.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mongars.core.generation import PromptCacheScope, Sampling
from mongars.engines.provisioning.spec import EMBEDDING_MODEL

APPLICATION = "mongars"
DEPLOYMENT = "LLMDeployment"

EngineKind = Literal["llama_cpp", "vllm", "ollama", "fake"]


TOKEN_FROM_ENVIRONMENT = "0" * 64
"""Stands where the digest of a token should: each replica takes it from its own RAY_SERVE_TOKEN.

For manifests, which are made where the token is not known. No token has this digest.
"""


PROXY_GUARD = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "mongars.bootstrap.proxy.guard_proxy"}
"""What Ray's processes need in their environment for Serve's proxy to bound its connections."""


NO_REPORTS = "off"
"""For `RAY_USAGE_STATS_REPORT_URL`: no address, so that a report ends before it reaches a network."""
QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": NO_REPORTS,
    "RAY_START_HOOK": "mongars.serving.ray_start.without_usage_reports",
}
"""What `ray start` needs in its environment to call no host outside the operator's."""


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


RESERVED = {"", "/healthz", "/readyz", "/v1/models", "/v1/embeddings"}


class VllmOptions(_Section):
    """What only vLLM knows."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    kv_cache_mib: int | None = Field(default=None, ge=1)
    """Size of the key-value cache instead of that share; needed on a CPU."""
    enforce_eager: bool = False


class EngineSpec(_Section):
    """Which engine serves a role, and how large."""

    kind: EngineKind = "llama_cpp"
    model_name: str = "smollm2-135m-instruct"
    """What answers call the model; for `ollama`, the tag."""
    model_path: str = ""
    """GGUF file (llama_cpp) or model folder (vllm) on every node; empty: what
    `scripts.provision_models` put into the node's own cache for this role."""
    slots: int = Field(default=4, ge=1, le=256)
    context_tokens: int = Field(default=4096, ge=64)
    threads: int | None = Field(default=None, ge=1)
    prompt_batch_tokens: int = Field(default=16, ge=8)
    prompt_cache_mib: int = Field(default=0, ge=0)
    """Host memory for the prompts of finished requests (llama_cpp, with the scope `shared` only);
    each slot keeps its last."""
    url: str = ""
    """The Ollama server; reached from every node."""
    token_delay: float = Field(default=0.0, ge=0.0)
    """Seconds per token, fake engine only."""
    vllm: VllmOptions = Field(default_factory=VllmOptions)

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.kind == "ollama" and not self.url.startswith(("http://", "https://")):
            message = "url: the ollama engine needs the address of an Ollama server"
            raise ValueError(message)
        if "@" in self.url:
            message = "url: must hold no credentials; definitions and manifests are no secrets"
            raise ValueError(message)
        return self


class EmbeddingSpec(EngineSpec):
    """Which engine makes vectors; by default the built-in model, one text at a time."""

    model_name: str = EMBEDDING_MODEL
    kind: Literal["llama_cpp", "fake"] = "llama_cpp"
    slots: int = Field(default=1, ge=1, le=256)
    context_tokens: int = Field(default=512, ge=64)
    """The longest text, in tokens."""


class SamplingDefaults(_Section):
    """What is used where a request leaves the choice open."""

    temperature: float = Field(default=0.7, ge=0.0, le=2.0)
    top_p: float = Field(default=0.9, gt=0.0, le=1.0)
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; null: as much as prompt and context leave."""

    def to_sampling(self) -> Sampling:
        """As the core's own type."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class ReplicaConfig(_Section):
    """Everything one replica needs."""

    engine: EngineSpec = Field(default_factory=EngineSpec)
    coding: EngineSpec | None = None
    """A model of its own for coding tasks; None: the general one answers them."""
    embedding: EmbeddingSpec | None = None
    """The model behind `/v1/embeddings`; None: that door is closed."""
    sampling: SamplingDefaults = Field(default_factory=SamplingDefaults)
    prompt_cache_scope: PromptCacheScope = "user"
    """Whose prompts engines reuse: those of requests with the same `cache_salt`, or everybody's."""
    max_waiting: int = Field(default=16, ge=0)
    """Requests that may wait for a slot of an engine; one more is refused with 503."""
    max_body_bytes: int = Field(default=1_000_000, ge=1024)
    answer_timeout: float = Field(default=600.0, gt=0)
    """Seconds any answer may take when its caller names no deadline."""
    stuck_after: float = Field(default=30.0, gt=0)
    """Seconds an engine may be silent with work before it; then it is killed and started anew."""
    longest_gathering: float = Field(default=0.2, ge=0)
    """Seconds a token may wait to be sent with others of its answer while a replica writes several
    answers (`serving.pacing`); 0 sends each at once, for more work per token."""
    token_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the bearer token callers must send; only the digest reaches the cluster."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    generate_path: str = Field(default="/generate", pattern=r"^/[\w\-./]*$")

    @model_validator(mode="after")
    def _path_is_free(self) -> Self:
        if self.generate_path.rstrip("/") in RESERVED:
            message = f"generate_path: {self.generate_path} is a path of the replica's own"
            raise ValueError(message)
        return self

    @property
    def capacity(self) -> int:
        """Requests a replica holds, answering or waiting, over all its engines."""
        engines = [self.engine, self.coding, self.embedding]
        return sum(engine.slots + self.max_waiting for engine in engines if engine is not None)


class Autoscaling(_Section):
    """Replicas follow the load between two bounds; times in seconds."""

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=4, ge=1)
    target_ongoing_requests: float | None = Field(default=None, gt=0)
    """Requests per replica to aim at; None: its engine's slots."""
    upscale_delay: float = Field(default=10.0, ge=0)
    downscale_delay: float = Field(default=300.0, ge=0)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max_replicas < self.min_replicas:
            message = f"max_replicas: must be at least min_replicas ({self.min_replicas})"
            raise ValueError(message)
        return self


class ServingConfig(_Section):
    """The whole application, as an operator configures it."""

    replica: ReplicaConfig = Field(default_factory=ReplicaConfig)
    replicas: int = Field(default=1, ge=1)
    autoscaling: Autoscaling | None = None
    """None: always `replicas` of them."""
    cpus_per_replica: float = Field(default=1.0, ge=0)
    gpus_per_replica: float = Field(default=0.0, ge=0)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    drain_seconds: float = Field(default=120.0, ge=0)
    """How long a replica that is replaced may go on with the answers it has begun."""
    max_surge_percent: int = Field(default=100, ge=0, le=100)
    """Replicas an update may start before it stops old ones, in percent; 0 on a cluster without
    room for a replica more, where an update of a single replica is then an outage."""
    session_affinity: bool = True
    """Requests of one conversation (`x-session-id`) go to the replica that knows its prompt."""
    haproxy: bool = False
    """The cluster runs with RAY_SERVE_ENABLE_HA_PROXY=1, which knows no session affinity."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_replica > 1 and self.gpus_per_replica % 1:
            message = "gpus_per_replica: above 1, whole numbers only"
            raise ValueError(message)
        return self

    @property
    def most_replicas(self) -> int:
        """How many there can be."""
        return self.replicas if self.autoscaling is None else self.autoscaling.max_replicas
