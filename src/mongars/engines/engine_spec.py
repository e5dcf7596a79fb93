"""Specifications of engines and embedders: a part of the Serve application's definition, as JSON."""

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
    """Options for vLLM, with the names and meanings of vLLM's own arguments, except `kv_cache_mib`.

    That is the size of the key-value cache in MiB; null: vLLM derives it from `gpu_memory_utilization`.
    """

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    kv_cache_mib: int | None = Field(default=None, ge=1)
    """Size of the key-value cache in MiB, instead of the share `gpu_memory_utilization`; needed on a CPU."""
    enforce_eager: bool = False


class EngineSpec(_SpecSection):
    """The engine that serves one model role: its kind, its model and its limits.

    `kind`: `llama_cpp`, `vllm`, `ollama` or `fake`, or another registered one. The model is the file or folder at
    `model_path` (empty: the file stored in each node's cache for the role), or for the kind `ollama` the tag
    `model_name` of the server at `url`; for the others, `model_name` is the name in answers, and `url` is unused.
    `slots`: requests processed at a time, each with a context window of `context_tokens`.
    """

    kind: Kind = "llama_cpp"
    model_name: str = "smollm2-135m-instruct"
    """The name of the model in answers; for `ollama`, the tag."""
    model_path: str = ""
    """GGUF file (llama_cpp) or model folder (vllm), at the same path on every node; empty: the model that
    `scripts.provision_models` stored in each node's cache for this role.
    """
    slots: int = Field(default=4, ge=1, le=256)
    context_tokens: int = Field(default=4096, ge=64)
    threads: int | None = Field(default=None, ge=1)
    prompt_batch_tokens: int = Field(default=16, ge=8)
    prompt_cache_mib: int = Field(default=0, ge=0)
    """Host memory in MiB for the prompts of finished requests (llama_cpp with the scope `shared` only); each slot keeps
    its last prompt in addition.
    """
    url: str = ""
    """The URL of the Ollama server (`ollama` only); every node must reach it."""
    token_delay: float = Field(default=0.0, ge=0.0)
    """Seconds between two tokens (fake engine only)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of engine kinds that have no fields of their own here; the kind's factory validates them."""
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
    """The specification of the embedding engine: by default the model `all-minilm-l6-v2`, one request at a time."""

    model_name: str = EMBEDDING_MODEL
    kind: EmbeddingKind = "llama_cpp"
    slots: int = Field(default=1, ge=1, le=256)
    context_tokens: int = Field(default=512, ge=64)
    """The most tokens of a text."""
