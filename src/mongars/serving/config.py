"""What the Serve application is made of; travels as JSON in the arguments of the application.

`engine` and the limits are part of the code version: changing them replaces replicas. `sampling`
travels as `user_config`: changing it reaches running replicas and restarts nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mongars.core.generation import Sampling

APPLICATION = "mongars"
DEPLOYMENT = "LLMDeployment"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineSpec(_Part):
    """Which engine a replica runs, and how large."""

    kind: Literal["llama_cpp", "fake"] = "llama_cpp"
    model_path: str = ""
    model_name: str = "smollm2-135m-instruct"
    slots: int = Field(default=4, ge=1, le=256)
    context_tokens: int = Field(default=4096, ge=64)
    threads: int | None = Field(default=None, ge=1)
    prompt_batch_tokens: int = Field(default=16, ge=8)
    token_delay: float = Field(default=0.0, ge=0.0)
    """Seconds per token, fake engine only."""


class SamplingDefaults(_Part):
    """What is used where a request leaves the choice open."""

    temperature: float = Field(default=0.7, ge=0.0, le=2.0)
    top_p: float = Field(default=0.9, gt=0.0, le=1.0)
    max_tokens: int = Field(default=512, ge=1)

    def to_sampling(self) -> Sampling:
        """As the core's own type."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class ReplicaConfig(_Part):
    """Everything one replica needs."""

    engine: EngineSpec = Field(default_factory=EngineSpec)
    sampling: SamplingDefaults = Field(default_factory=SamplingDefaults)
    max_waiting: int = Field(default=16, ge=0)
    """Requests that may wait for an engine slot; one more is refused with 503."""
    max_body_bytes: int = Field(default=1_000_000, ge=1024)
    answer_timeout: float = Field(default=600.0, gt=0)
    """Seconds any answer may take when its caller names no deadline."""
    token_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the bearer token callers must send; only the digest reaches the cluster."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    generate_path: str = Field(default="/generate", pattern=r"^/[\w\-./]*$")


class ServingConfig(_Part):
    """The whole application, as an operator configures it."""

    replica: ReplicaConfig = Field(default_factory=ReplicaConfig)
    replicas: int = Field(default=1, ge=1)
    cpus_per_replica: float = Field(default=1.0, ge=0)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    drain_seconds: float = Field(default=20.0, ge=0)
