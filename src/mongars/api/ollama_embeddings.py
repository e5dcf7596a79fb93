"""The routes of Ollama's API for embeddings: `/api/embed`, and the older `/api/embeddings` for one text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import orjson
from fastapi import APIRouter, Request

from mongars.api import ollama_schemas as schemas
from mongars.api.description import embedding
from mongars.api.dialect import RouteTable
from mongars.api.models import MODEL_ALIAS
from mongars.api.ollama_dialect import OLLAMA_ERRORS, OllamaModels
from mongars.api.serve_embeddings import serve_embeddings
from mongars.protocol.body import parse_model
from mongars.protocol.embeddings import OllamaEmbeddingsRequest, OllamaEmbedRequest, unpack
from mongars.protocol.ollama_responses import embed_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi.responses import Response

    from mongars.api.context import ApiContext
    from mongars.inference.embedding import EmbeddedBatch

EMBED_EXAMPLE = {"model": MODEL_ALIAS, "input": ["a cup of tea", "a pot of coffee"]}
EMBEDDINGS_EXAMPLE = {"model": MODEL_ALIAS, "prompt": "a cup of tea"}


def ollama_embedding_routes(context: ApiContext) -> RouteTable:
    """The route table of Ollama's embeddings: `/api/embed` and the older `/api/embeddings`."""
    embed, embeddings = OllamaEmbed(context), OllamaEmbeddings(context)
    router = APIRouter(prefix="/api", tags=["ollama"])

    async def ollama_embed(request: Request) -> Response:
        """Compute the embeddings of up to 2,048 texts (`input`): vectors of length 1, in the order of the texts.

        Texts that are too long for the model are refused with 400, not truncated.
        """
        return await serve_embeddings(request, context, embed)

    async def ollama_embeddings(request: Request) -> Response:
        """Compute the embedding of one text (`prompt`), as one vector (`embedding`). The older form of `/api/embed`."""
        return await serve_embeddings(request, context, embeddings)

    for path, handler, read, example, response in (
        ("/embed", ollama_embed, OllamaEmbedRequest, EMBED_EXAMPLE, schemas.OllamaEmbedded),
        (
            "/embeddings",
            ollama_embeddings,
            OllamaEmbeddingsRequest,
            EMBEDDINGS_EXAMPLE,
            schemas.OllamaEmbedding,
        ),
    ):
        router.add_api_route(
            path,
            handler,
            methods=["POST"],
            response_model=None,
            **embedding(read, example, response, error=schemas.OllamaError),
        )
    return RouteTable(
        router=router,
        prefix="/api",
        errors=OLLAMA_ERRORS,
        models=(OllamaEmbedRequest, OllamaEmbeddingsRequest, *schemas.RESPONSES),
    )


class OllamaEmbed:
    """The dialect of `/api/embed` (implements `EmbeddingDialect`): parses its requests and names its error format."""

    errors = OLLAMA_ERRORS

    def __init__(self, context: ApiContext) -> None:
        self._models = OllamaModels(context)

    def read(self, body: bytes) -> OllamaEmbedCall:
        """Parse the JSON body of a request.

        Raises `InvalidRequest` if it is invalid, `ModelUnknown` if it names another model than the embedding model (no
        name, `mongars` and the tag `latest` are accepted).
        """
        read = parse_model(body, OllamaEmbedRequest)
        return OllamaEmbedCall(read, model=self._models.find_embedding(read.model))


class OllamaEmbeddings:
    """The dialect of `/api/embeddings` (implements `EmbeddingDialect`): parses its requests, names its error format."""

    errors = OLLAMA_ERRORS

    def __init__(self, context: ApiContext) -> None:
        self._models = OllamaModels(context)

    def read(self, body: bytes) -> OllamaEmbeddingsCall:
        """Parse the JSON body of a request.

        Raises `InvalidRequest` if it is invalid, `ModelUnknown` if it names another model than the embedding model (no
        name, `mongars` and the tag `latest` are accepted).
        """
        read = parse_model(body, OllamaEmbeddingsRequest)
        return OllamaEmbeddingsCall(read, model=self._models.find_embedding(read.model))


class OllamaEmbedCall:
    """One parsed request of `/api/embed` (implements `EmbeddingCall`): texts, vector length and model.

    `dimensions` is the requested number of dimensions of each vector; None: the model's own.
    """

    field_names: ClassVar[dict[str, str]] = {}

    def __init__(self, read: OllamaEmbedRequest | OllamaEmbeddingsRequest, *, model: str) -> None:
        self.texts = read.texts
        self.dimensions = read.dimensions
        self.model = model

    def entry(self, index: int, vector: bytes) -> object:  # noqa: ARG002 (the port's signature)
        """The embedding `vector` (packed float32 bytes) of one text as a fragment of encoded JSON: a list of numbers.

        Ignores `index`.
        """
        return orjson.Fragment(orjson.dumps(unpack(vector)))

    def body(self, found: EmbeddedBatch, entries: Sequence[object], *, seconds: float) -> object:
        """The JSON body of the response in Ollama's format: vectors (`entries`), model, durations, number of tokens.

        `found` has model, tokens and the seconds waited for model servers. `seconds`, the time since the request
        arrived, becomes `total_duration`; less the waiting, `load_duration`. Both are given in nanoseconds.
        """
        durations = {"total_duration": seconds, "load_duration": seconds - found.route.waited}
        return embed_body(
            entries, model=found.model, prompt_tokens=found.prompt_tokens, durations=durations
        )


class OllamaEmbeddingsCall(OllamaEmbedCall):
    """One parsed request of `/api/embeddings` (implements `EmbeddingCall`), which has one text."""

    field_names: ClassVar[dict[str, str]] = {"input": "prompt"}

    def body(self, found: EmbeddedBatch, entries: Sequence[object], *, seconds: float) -> object:  # noqa: ARG002 (the port's signature)
        """The JSON body of the response, `{"embedding": entries[0]}`. `found` and `seconds` are not used."""
        return {"embedding": entries[0]}
