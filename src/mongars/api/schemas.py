"""Schemas of responses, for the OpenAPI description. Responses are not validated against them at run time."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from mongars.core.generation import FinishReason
from mongars.inference.endpoints.endpoint_status import EndpointStatus


class Model(BaseModel):
    """A served model, as `/v1/models` lists it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The served models: the response of `/v1/models`."""

    object: Literal["list"]
    data: list[Model]


class PromptTokensDetails(BaseModel):
    """The number of prompt tokens that the model server took from its cache."""

    cached_tokens: int


class CompletionUsage(BaseModel):
    """The numbers of tokens of a request and its answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_per_generation: list[int] | None = None


class TopLogprob(BaseModel):
    """A candidate for one token of the answer, with its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    """A token of the answer with its log-probability, and the likeliest tokens at its position."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """The tokens of one answer with their log-probabilities."""

    content: list[TokenLogprob]
    refusal: list[TokenLogprob] | None = None


class AssistantMessage(BaseModel):
    """The answer as a message of the assistant."""

    role: Literal["assistant"]
    content: str
    refusal: str | None
    reasoning_content: str | None = None


class CompletionChoice(BaseModel):
    """One of the `n` answers to a chat request."""

    index: int
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: Logprobs | None


class ChatCompletion(BaseModel):
    """The response of `/v1/chat/completions` without streaming."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


class TextLogprobs(BaseModel):
    """The tokens of one answer of `/v1/completions`, their log-probabilities, and their offsets in its text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    """One of the `n` answers to a request of `/v1/completions`."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class TextCompletion(BaseModel):
    """The response of `/v1/completions` without streaming."""

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
    """The number of tokens in the texts of a request for embeddings."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The response of `/v1/embeddings`: one vector per text, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ApiError(BaseModel):
    """The text (`message`), type, parameter and code of an error, as OpenAI's API reports them."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """The error response of every path under `/v1`."""

    error: ApiError


class Problem(BaseModel):
    """The error response of monGARS' own routes: all but those of OpenAI's and Ollama's API."""

    detail: str
    error: str | None = None
    param: str | None = None


class ConversationReply(BaseModel):
    """The response of `/api/v1/conversation/chat`: an answer that was stored as a turn of the conversation."""

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
    """A stored turn of a conversation: a user's message and its answer."""

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
    """A login token. Until it expires, send it like an API key: `Authorization: Bearer <token>`."""

    access_token: str
    token_type: Literal["bearer"]


class Health(BaseModel):
    """The response of `/healthz`: the process runs and answers requests."""

    status: Literal["ok"]
    version: str


class Part(BaseModel):
    """The state of one component: a provider of answers, or the database."""

    state: str
    detail: str


class Readiness(BaseModel):
    """Whether a chat request sent now would be answered and stored, and the state of each component."""

    status: Literal["ready", "degraded", "unavailable"]
    parts: dict[str, Part]


class ListedProvider(BaseModel):
    """The state of one provider of answers; its endpoints, if it is Ray Serve."""

    name: str
    state: str
    detail: str
    endpoints: list[EndpointStatus]


class ProviderList(BaseModel):
    """The providers of answers, in the order in which they are tried."""

    providers: list[ListedProvider]
