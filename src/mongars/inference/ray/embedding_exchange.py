"""Embeddings by the Ray endpoints: POST `/v1/embeddings` on the same application as `/generate`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongars.core.errors import ModelUnknown, NotFound, TooLarge
from mongars.inference.embedding import EMBEDDING_TASK, EmbeddedTexts, halves
from mongars.inference.ray.http_exchange import HttpExchange
from mongars.inference.retry.failures import no_route
from mongars.protocol.body import encode, json_object
from mongars.protocol.embeddings import read_embeddings, request_body
from mongars.protocol.openai import error_in

if TYPE_CHECKING:
    from mongars.core.deadline import Deadline
    from mongars.inference.embedding import TextBatch
    from mongars.inference.http.http_pool import UpstreamResponse
    from mongars.inference.provider import Attempts, ProviderName, StreamState
    from mongars.inference.ray.client import RayClient
    from mongars.inference.ray.http_exchange import ExchangeContext

SECONDS_PER_TEXT = 0.1
"""Estimated seconds to embed one short text on a busy machine; used only to extend a timeout."""
_NO_ROUTE = frozenset({404, 405})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedVectors:
    """The response of a Ray endpoint to a request for embeddings: one vector per text, packed as little-endian float32.

    `prompt_tokens`: tokens of all texts. The other attributes, which every result of an endpoint has, are constant:
    the response is `complete`, it has not `stalled`, and `adapter_version` is None, since no adapter embeds.
    """

    vectors: tuple[bytes, ...]
    prompt_tokens: int
    state: StreamState = "complete"
    stalled: bool = False
    adapter_version: str | None = None


class EmbeddingExchange(HttpExchange[ReceivedVectors]):
    """One request for embeddings, which can be sent to any Ray endpoint.

    If the endpoint's application does not have the embedding model, `ModelUnknown` is raised; this is not recorded as a
    failure of the endpoint.
    """

    path = "/v1/embeddings"
    # The duration depends on the number of texts and on the embedder's queue, which no chat waits in.
    is_latency_sample = False
    complete_at_start = True

    def __init__(
        self,
        context: ExchangeContext,
        batch: TextBatch,
        *,
        deadline: Deadline,
        attempts: Attempts,
    ) -> None:
        super().__init__(
            context,
            request_id=batch.request_id,
            task_type=EMBEDDING_TASK,
            deadline=deadline,
            attempts=attempts,
        )
        self._batch = batch
        self.scope = batch.scope
        self.traceparent = batch.traceparent
        seconds = context.config.first_result_seconds(batch.size)
        self.start_seconds = seconds + SECONDS_PER_TEXT * len(batch.texts)

    def body(self) -> bytes:
        """The body of `POST /v1/embeddings` as encoded JSON: the texts, and the name of the model that must embed them.

        If the batch belongs to an account (`TextBatch.scope`), it also has `cache_salt`, an opaque name of that
        account by which replicas share their engines fairly, and the account's `weight` if that is not 1.
        """
        batch, config = self._batch, self._config
        body = request_body(
            batch.texts,
            model=batch.model,
            cache_salt=config.cache_salt(batch.scope),
            weight=config.share(batch.scope).weight,
        )
        return encode(body)

    async def read(self, response: UpstreamResponse) -> ReceivedVectors:
        """The vectors in a response with HTTP status 2xx.

        Raises `ModelUnknown` if the response names another model, or `InvalidAnswer` unless it has one vector per text.
        """
        body = json_object(await response.body())
        vectors, tokens, model = read_embeddings(body, count=len(self._batch.texts))
        if model != self._batch.model:
            detail = f"The endpoint returned vectors of {model!r}."
            raise self._unknown(detail)
        return ReceivedVectors(vectors=vectors, prompt_tokens=tokens)

    def failure(self, status: int, body: dict[str, Any], *, wait: float | None) -> Exception:
        """The error for a response with an HTTP status other than 2xx.

        For 404 and 405: `ModelUnknown` if the body reports that the application lacks the model, else an
        `AttemptError` of the class `no_route`: another endpoint is tried, and this one stays in use for generation
        requests. For others: a `CallerError` if the request itself is wrong, else an `AttemptError`. `body`: the
        decoded JSON. `wait`: seconds from `Retry-After`, None without it.
        """
        if status not in _NO_ROUTE:
            return super().failure(status, body, wait=wait)
        reported = error_in(body) if body.get("error") else None
        if isinstance(reported, ModelUnknown | NotFound):
            return self._unknown(str(reported))
        return no_route(f"The endpoint has no route {self.path} ({status}).", status=status)

    def _unknown(self, detail: str) -> ModelUnknown:
        wanted = f"The embedding model {self._batch.model!r} is not served there."
        return ModelUnknown(f"{detail} {wanted}", param="model")


class RayEmbeddings:
    """The `EmbeddingProvider` that sends texts to the Ray endpoints, with the same retries as generation requests."""

    name: ProviderName = "ray_serve"
    local = False

    def __init__(self, client: RayClient, context: ExchangeContext) -> None:
        """`client`: the client of the `RayServe` provider, whose `run` and `aclose` also serve this provider.

        `context`: the settings, HTTP connections and clock of that provider.
        """
        self._client = client
        self._context = context

    async def embed(
        self, batch: TextBatch, deadline: Deadline, attempts: Attempts
    ) -> EmbeddedTexts:
        """The vectors of `batch`, one piece (at most 128 texts) of the client's batch, received before `deadline`.

        If an endpoint refuses the piece as too large, its halves are sent, and so on; `TooLarge` is raised for a
        single text. Raises `ModelUnknown` if an endpoint does not have `batch.model`, another `CallerError` if the
        request is wrong, or a `WorldError` if no endpoint sent the vectors in time.
        """
        try:
            return await self._embed(batch, deadline, attempts)
        except TooLarge:
            if len(batch.texts) == 1:
                raise
        first, second = [await self.embed(half, deadline, attempts) for half in halves(batch)]
        return EmbeddedTexts(
            vectors=first.vectors + second.vectors,
            prompt_tokens=first.prompt_tokens + second.prompt_tokens,
            endpoint=second.endpoint,
        )

    async def run(self) -> None:
        """Return at once: the `RayServe` provider probes the endpoints."""

    async def aclose(self) -> None:
        """Do nothing: the `RayServe` provider closes the connections."""

    async def _embed(
        self, batch: TextBatch, deadline: Deadline, attempts: Attempts
    ) -> EmbeddedTexts:
        exchange = EmbeddingExchange(self._context, batch, deadline=deadline, attempts=attempts)
        async with AsyncExitStack() as stack:
            found = await self._client.start(exchange, stack, deadline=deadline, attempts=attempts)
            return EmbeddedTexts(
                vectors=found.result.vectors,
                prompt_tokens=found.result.prompt_tokens,
                endpoint=found.endpoint,
            )
