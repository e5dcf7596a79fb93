"""The route of OpenAI's API for embeddings: `/v1/embeddings`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fastapi import APIRouter, Request

from mongars.api import schemas
from mongars.api.description import embedding
from mongars.api.dialect import RouteTable
from mongars.api.error_formats import OPENAI_ERRORS
from mongars.api.models import MODEL_ALIAS, ServedModels
from mongars.api.serve_embeddings import serve_embeddings
from mongars.protocol.body import parse_model
from mongars.protocol.embeddings import EmbeddingRequest, response_body, written_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi.responses import Response

    from mongars.api.context import ApiContext
    from mongars.inference.embedding import EmbeddedBatch

EXAMPLE = {"model": MODEL_ALIAS, "input": ["a cup of tea", "a pot of coffee"]}


def embedding_routes(context: ApiContext) -> RouteTable:
    """The route table of `/v1/embeddings`."""
    dialect = OpenAIEmbeddings(context)
    router = APIRouter(prefix="/v1", tags=["openai"])

    async def embeddings(request: Request) -> Response:
        """Compute the embeddings of up to 2,048 texts (`input`): vectors of length 1, in the order of the texts.

        Texts that are too long for the model are refused with 400, not truncated.
        """
        return await serve_embeddings(request, context, dialect)

    router.add_api_route(
        "/embeddings",
        embeddings,
        methods=["POST"],
        response_model=None,
        **embedding(EmbeddingRequest, EXAMPLE, schemas.EmbeddingList, error=schemas.ErrorResponse),
    )
    return RouteTable(
        router=router,
        prefix="/v1",
        errors=OPENAI_ERRORS,
        models=(EmbeddingRequest, schemas.EmbeddingList, schemas.ErrorResponse),
    )


class OpenAIEmbeddings:
    """The dialect of `/v1/embeddings` (implements `EmbeddingDialect`): parses requests, names its error format."""

    errors = OPENAI_ERRORS

    def __init__(self, context: ApiContext) -> None:
        self._models = ServedModels(context.config)

    def read(self, body: bytes) -> OpenAIEmbeddingCall:
        """Parse the JSON body of a request.

        Raises `InvalidRequest` if it is invalid, `ModelUnknown` unless its model is exactly the embedding model's name,
        the alias `mongars` or empty.
        """
        read = parse_model(body, EmbeddingRequest)
        return OpenAIEmbeddingCall(read, model=self._models.find_embedding(read.model))


class OpenAIEmbeddingCall:
    """One parsed request of `/v1/embeddings` (implements `EmbeddingCall`): texts, vector length and model.

    `dimensions` is the requested number of dimensions of each vector; None: the model's own.
    """

    field_names: ClassVar[dict[str, str]] = {}

    def __init__(self, read: EmbeddingRequest, *, model: str) -> None:
        self._encoding_format = read.encoding_format
        self.texts = read.texts
        self.dimensions = read.dimensions
        self.model = model

    def entry(self, index: int, vector: bytes) -> object:
        """OpenAI's `embedding` object for the text at `index` (from 0), as encoded JSON.

        `vector` is its vector as packed float32 bytes; written as a list of numbers, or as base64 if the request's
        `encoding_format` says so.
        """
        return written_entry(index, vector, encoding_format=self._encoding_format)

    def body(self, found: EmbeddedBatch, entries: Sequence[object], *, seconds: float) -> object:  # noqa: ARG002 (the port's signature)
        """The JSON body of the response in OpenAI's format: embeddings (`entries`), model, number of tokens.

        Model and tokens are those of `found`. Ignores `seconds`.
        """
        return response_body(entries, model=found.model, prompt_tokens=found.prompt_tokens)
