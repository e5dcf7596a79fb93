"""Schemas of responses, for the OpenAPI description. Responses are not validated against them at run time."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from mongars.core.generation import FinishReason
from mongars.inference.endpoints.endpoint_status import EndpointStatus


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"]
    data: list[Model]


class PromptTokensDetails(BaseModel):
    """Details about the tokens of the prompt."""

    cached_tokens: int


class CompletionUsage(BaseModel):
    """The numbers of tokens of a request and its answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_per_generation: list[int] | None = None


class TopLogprob(BaseModel):
    """A token that could have been chosen."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """The tokens of an answer."""

    content: list[TokenLogprob]
    refusal: list[TokenLogprob] | None = None


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: str | None
    reasoning_content: str | None = None


class CompletionChoice(BaseModel):
    """One of `n` answers."""

    index: int
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: Logprobs | None


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


class TextLogprobs(BaseModel):
    """The tokens of a choice, and the offset in its text at which each begins."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    """One of `n` answers."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class TextCompletion(BaseModel):
    """A whole answer of `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: CompletionUsage | None = None


class Embedding(BaseModel):
    """The vector of one text: a list of numbers, or their float32 bytes as base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The vectors in the order of the texts, all of one model."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ApiError(BaseModel):
    """The text, type, parameter and code of an error."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """An error of `/v1`."""

    error: ApiError


class Problem(BaseModel):
    """An error of every other route."""

    detail: str
    error: str | None = None
    param: str | None = None


class ConversationReply(BaseModel):
    """An answer that was stored."""

    response: str
    confidence: float | None
    processing_time: float
    speech_turn: dict[str, Any]
    session_id: str | None
    finish_reason: FinishReason
    usage: CompletionUsage | None
    provider: str
    adapter_version: str


class ConversationTurn(BaseModel):
    """A question and its answer."""

    user_id: str
    query: str
    response: str
    timestamp: datetime
    expires_at: datetime | None
    session_id: str | None


class LoginForm(BaseModel):
    """The username and password of a login."""

    username: str
    password: str


class LoginToken(BaseModel):
    """A token that is sent like an API key until it expires."""

    access_token: str
    token_type: Literal["bearer"]


class Health(BaseModel):
    """The process runs and answers requests."""

    status: Literal["ok"]
    version: str


class Part(BaseModel):
    """The state of one part."""

    state: str
    detail: str


class Readiness(BaseModel):
    """Whether a chat sent now would be answered and stored."""

    status: Literal["ready", "degraded", "unavailable"]
    parts: dict[str, Part]


class ListedProvider(BaseModel):
    """A provider, and each endpoint if it is Ray."""

    name: str
    state: str
    detail: str
    endpoints: list[EndpointStatus]


class ProviderList(BaseModel):
    """The providers, in the order in which they are tried."""

    providers: list[ListedProvider]
