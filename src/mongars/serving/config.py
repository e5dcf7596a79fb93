"""Configuration of the Serve application, sent as JSON in the arguments of the application.

Engines and limits are part of the code version in Serve: changing them replaces replicas. `sampling` is sent as
`user_config`: a change reaches running replicas without a restart.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mongars.core.generation import (
    DEFAULT_TEMPERATURE,
    DEFAULT_TOP_P,
    PromptCacheScope,
    Sampling,
)
from mongars.engines.engine_spec import EmbeddingSpec, EngineSpec, VllmOptions

__all__ = ["EmbeddingSpec", "EngineSpec", "VllmOptions"]  # part of this configuration

APPLICATION = "mongars"
DEPLOYMENT = "LLMDeployment"

TOKEN_FROM_ENVIRONMENT = "0" * 64
"""Placeholder for the digest of a token: each replica computes the digest from its own RAY_SERVE_TOKEN.

For manifests, which are generated without the token. No token has this digest.
"""


PROXY_GUARD = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "mongars.bootstrap.proxy.guard_proxy"}
"""Environment variable for Ray's processes that makes Serve's HTTP proxy limit its client connections."""


NO_REPORTS = "off"
"""Value of `RAY_USAGE_STATS_REPORT_URL` that is no URL, so that a usage report fails before any network access."""
QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": NO_REPORTS,
    "RAY_START_HOOK": "mongars.serving.ray_start.without_usage_reports",
}
"""Environment variables of `ray start` that keep Ray from contacting hosts outside the cluster."""


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


RESERVED = {"", "/healthz", "/readyz", "/v1/models", "/v1/embeddings"}


class SamplingDefaults(_Section):
    """Sampling parameters for requests that do not set them; can be changed without restarting replicas.

    `max_tokens` null: as many as fit into the rest of the context window.
    """

    temperature: float = Field(default=DEFAULT_TEMPERATURE, ge=0.0, le=2.0)
    top_p: float = Field(default=DEFAULT_TOP_P, gt=0.0, le=1.0)
    max_tokens: int | None = Field(default=None, ge=1)
    """The most tokens of an answer; null: the rest of the context window."""

    def to_sampling(self) -> Sampling:
        """Convert these defaults to a `core.generation.Sampling` with `temperature`, `top_p` and `max_tokens`."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class ReplicaConfig(_Section):
    """Configuration of one Ray Serve replica: its engines, their queues, limits, and the token that requests need.

    It is sent to the cluster as JSON, in the arguments of the Serve application.
    """

    engine: EngineSpec = Field(default_factory=EngineSpec)
    coding: EngineSpec | None = None
    """A separate model for coding tasks; null: the general model handles them."""
    embedding: EmbeddingSpec | None = None
    """The model behind `/v1/embeddings`; null: no embeddings are served."""
    sampling: SamplingDefaults = Field(default_factory=SamplingDefaults)
    prompt_cache_scope: PromptCacheScope = "user"
    """`user`: engines reuse cached prompts among requests with the same `cache_salt`; `shared`: among all requests."""
    max_waiting: int = Field(default=16, ge=0)
    """Requests that may wait for a slot of an engine; further ones are refused with status 503."""
    max_body_bytes: int = Field(default=1_000_000, ge=1024)
    answer_timeout: float = Field(default=600.0, gt=0)
    """The most seconds that an answer may take, waiting included; a client can set a shorter deadline."""
    stuck_after: float = Field(default=30.0, gt=0)
    """Seconds without output after which an engine that has requests is restarted."""
    longest_gathering: float = Field(default=0.2, ge=0)
    """Seconds a token may wait to be sent together with further tokens while a replica streams several answers
    (`serving.pacing`); 0 sends each at once, for more work per token.
    """
    token_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the bearer token that requests must have; only the digest is sent to the cluster. null: no token is
    required.
    """
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
        """How many requests one replica accepts at a time over all its engines, those that wait included."""
        engines = [self.engine, self.coding, self.embedding]
        return sum(engine.slots + self.max_waiting for engine in engines if engine is not None)


class Autoscaling(_Section):
    """Limits and delays of the autoscaling of replicas; times in seconds.

    Serve adds or removes replicas so that each has `target_ongoing_requests` requests at a time, by default as many as
    its engine processes at a time.
    """

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=4, ge=1)
    target_ongoing_requests: float | None = Field(default=None, gt=0)
    """The number of concurrent requests per replica at which the replicas are scaled; null: the slots of its engine."""
    upscale_delay: float = Field(default=10.0, ge=0)
    downscale_delay: float = Field(default=300.0, ge=0)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max_replicas < self.min_replicas:
            message = f"max_replicas: must be at least min_replicas ({self.min_replicas})"
            raise ValueError(message)
        return self


class ServingConfig(_Section):
    """Configuration of the whole Serve application: its replicas, their number and resources, and its HTTP address.

    `replicas` is their number; with `autoscaling`, that at the start. `host` and `port` are where Serve listens.
    """

    replica: ReplicaConfig = Field(default_factory=ReplicaConfig)
    replicas: int = Field(default=1, ge=1)
    autoscaling: Autoscaling | None = None
    """null: a fixed number of replicas, `replicas`."""
    cpus_per_replica: float = Field(default=1.0, ge=0)
    gpus_per_replica: float = Field(default=0.0, ge=0)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    drain_seconds: float = Field(default=120.0, ge=0)
    """Seconds that a replica may take to finish its running answers when it is replaced or removed."""
    max_surge_percent: int = Field(default=100, ge=0, le=100)
    """How many replicas an update may start before it stops old ones, in percent; 0 on a cluster without room for one
    more replica, where an update of a single replica then interrupts service.
    """
    session_affinity: bool = True
    """Send requests of one conversation (`x-session-id`) to the replica that has its prompt in the cache."""
    haproxy: bool = False
    """Whether the cluster runs with RAY_SERVE_ENABLE_HA_PROXY=1; then there is no session affinity."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_replica > 1 and self.gpus_per_replica % 1:
            message = "gpus_per_replica: above 1, whole numbers only"
            raise ValueError(message)
        return self

    @property
    def most_replicas(self) -> int:
        """The largest number of replicas that can run: the maximum of autoscaling, or the fixed number."""
        return self.replicas if self.autoscaling is None else self.autoscaling.max_replicas
