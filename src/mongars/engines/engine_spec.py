"""Which engine serves a role: a part of the definition of the Serve application, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from mongars.engines.kinds import KINDS, check_embedding, check_kind
from mongars.engines.provisioning.spec import EMBEDDING_MODEL


def _schema(names: list[str]) -> WithJsonSchema:
    return WithJsonSchema({"enum": names, "type": "string"})


Kind = Annotated[str, AfterValidator(check_kind), _schema([*KINDS])]
EmbeddingKind = Annotated[
    str,
    AfterValidator(check_embedding),
    _schema([kind.name for kind in KINDS.values() if kind.embedder_factory]),
]


class _SpecSection(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class VllmOptions(_SpecSection):
    """What only vLLM knows."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    kv_cache_mib: int | None = Field(default=None, ge=1)
    """Size of the key-value cache instead of that share; needed on a CPU."""
    enforce_eager: bool = False


class EngineSpec(_SpecSection):
    """Which engine serves a role, and how large."""

    kind: Kind = "llama_cpp"
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
    options: dict[str, Any] = Field(default_factory=dict)
    """For kinds without fields of their own here; their factory checks them."""
    vllm: VllmOptions = Field(default_factory=VllmOptions)

    @model_validator(mode="after")
    def _options_are_read(self) -> Self:
        if self.options and not KINDS[self.kind].takes_options:
            message = f"options: the {self.kind} engine has none"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        served = KINDS[self.kind].model == "served"
        if served and not self.url.startswith(("http://", "https://")):
            message = f"url: the {self.kind} engine needs the address of its server"
            raise ValueError(message)
        if "@" in self.url:
            message = "url: must hold no credentials; definitions and manifests are no secrets"
            raise ValueError(message)
        return self


class EmbeddingSpec(EngineSpec):
    """Which engine makes vectors; by default the built-in model, one text at a time."""

    model_name: str = EMBEDDING_MODEL
    kind: EmbeddingKind = "llama_cpp"
    slots: int = Field(default=1, ge=1, le=256)
    context_tokens: int = Field(default=512, ge=64)
    """The longest text, in tokens."""
