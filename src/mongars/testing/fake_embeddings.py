"""`/v1/embeddings` of a fake replica, with the same responses as a real replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.core.errors import ModelUnknown, MongarsError, NotFound, TooLarge
from mongars.engines.fake_embedder import FakeEmbedder
from mongars.protocol.body import parse_model
from mongars.protocol.embeddings import ReplicaEmbeddingRequest, embeddings_body
from mongars.protocol.problems import openai_body, status_of

if TYPE_CHECKING:
    from collections.abc import Mapping

EMBEDDINGS = "/v1/embeddings"


class FakeEmbeddings:
    """Responds to requests of `/v1/embeddings` with vectors that are computed from the words of the texts.

    Each `FakeReplica` creates one. Its attributes set the name of the model (None: every response is 404), the largest
    request body in bytes and the longest text in words.
    """

    def __init__(self) -> None:
        self.model: str | None = "fake-embedding"
        """The name of the embedding model; None: there is none, and every response is 404."""
        self.max_body_bytes = 1_000_000
        """The largest request body in bytes; a larger one gets 413."""
        self.context_tokens = 512
        """The longest text in words; the response to a longer one is an error."""

    async def respond(self, body: bytes) -> tuple[int, Mapping[str, object]]:
        """The HTTP status and the JSON body of the response to the JSON request body `body`.

        If the request is invalid, they are those of an error in OpenAI's format; nothing is raised for it.
        """
        try:
            return 200, await self._embed(body)
        except MongarsError as error:
            return status_of(error), openai_body(error)

    async def _embed(self, body: bytes) -> Mapping[str, object]:
        if len(body) > self.max_body_bytes:
            detail = f"The request body is larger than {self.max_body_bytes} bytes."
            raise TooLarge(detail)
        request = parse_model(body, ReplicaEmbeddingRequest)
        if self.model is None:
            detail = "No embedding model is served here; see RAY_EMBEDDING_MODEL."
            raise NotFound(detail)
        if request.model not in {"", self.model}:
            detail = f"{request.model!r} makes no vectors here; {self.model!r} does."
            raise ModelUnknown(detail, param="model")
        embedder = FakeEmbedder(context_tokens=self.context_tokens, model=self.model)
        await embedder.start()
        found = await embedder.embed(request.texts)
        return embeddings_body(
            found.vectors,
            request=request,
            model=found.model,
            prompt_tokens=found.prompt_tokens,
        )
