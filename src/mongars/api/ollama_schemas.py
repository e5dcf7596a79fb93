"""Schemas of the responses of Ollama's API, for the OpenAPI description."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from mongars.api.schemas import TokenLogprob


class OllamaAnswered(BaseModel):
    """The fields of every response with a generated answer; durations are in nanoseconds."""

    model: str
    created_at: datetime
    done: bool
    done_reason: str
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[TokenLogprob] | None = None


class OllamaAnswerMessage(BaseModel):
    """The answer as a message of the assistant."""

    role: Literal["assistant"]
    content: str
    thinking: str | None = None


class OllamaChat(OllamaAnswered):
    """The response of `/api/chat` without streaming."""

    message: OllamaAnswerMessage


class OllamaGenerated(OllamaAnswered):
    """The response of `/api/generate` without streaming."""

    response: str
    thinking: str | None = None


class OllamaEmbedded(BaseModel):
    """The response of `/api/embed`; durations are in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbedding(BaseModel):
    """The response of `/api/embeddings`: the vector of one text."""

    embedding: list[float]


class OllamaDetails(BaseModel):
    """Details of a model; unknown values are empty."""

    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str


class OllamaModel(BaseModel):
    """A served model; its size is 0 and its digest empty if they are unknown."""

    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(BaseModel):
    """The response of `/api/tags`: the served models."""

    models: list[OllamaModel]


class OllamaRunningModel(BaseModel):
    """A loaded model; its sizes are unknown and given as 0."""

    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    details: OllamaDetails
    expires_at: datetime
    context_length: int | None = None


class OllamaRunning(BaseModel):
    """The response of `/api/ps`: the loaded models."""

    models: list[OllamaRunningModel]


class OllamaShown(BaseModel):
    """The response of `/api/show`: the details of a model."""

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: datetime


class OllamaVersion(BaseModel):
    """The response of `/api/version`: the version of monGARS."""

    version: str


class OllamaError(BaseModel):
    """The error response of every path under Ollama's `/api`."""

    error: str


RESPONSES = (
    OllamaChat,
    OllamaGenerated,
    OllamaEmbedded,
    OllamaEmbedding,
    OllamaTags,
    OllamaRunning,
    OllamaShown,
    OllamaVersion,
    OllamaError,
)
