"""The OpenAI-compatible routes of a replica: its models, and embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from mongars.core.errors import ModelUnknown, MongarsError
from mongars.core.fair_queue import Share
from mongars.protocol import headers
from mongars.protocol.embeddings import ReplicaEmbeddingRequest, embeddings_body
from mongars.protocol.openai import model_card
from mongars.protocol.problems import openai_body, retry_after_header, status_of
from mongars.serving.access import check_token, read_body
from mongars.serving.replica_response import ReplicaResponse

if TYPE_CHECKING:
    from mongars.core.deadline import Deadline
    from mongars.protocol.asgi import ResponseWriter
    from mongars.serving.replica import Replica


class OpenAIRoutes:
    """The HTTP route handlers of a replica for `/v1/models` and `/v1/embeddings`, in OpenAI's formats."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._created = int(replica.clock.now().timestamp())

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`: the list of the models that this replica serves, as JSON in OpenAI's format.

        Errors, such as a missing token, become responses in OpenAI's format.
        """
        try:
            check_token(request, self._replica.config.token_sha256)
        except MongarsError as error:
            return JSONResponse(openai_body(error), status_code=status_of(error))
        names = dict.fromkeys(self._replica.models)
        return JSONResponse(
            {"object": "list", "data": [model_card(name, created=self._created) for name in names]}
        )

    async def embeddings(self, request: Request) -> Response:
        """`POST /v1/embeddings`: one vector per text of the request, as JSON in OpenAI's format.

        Needs the bearer token if one is configured. The model name in the request must be that of the embedding model,
        case included, or empty; another one is 404, as is a replica without an embedding model. A text that is too
        long for the model is 400. Errors have OpenAI's error body.
        """
        try:
            config = self._replica.config
            check_token(request, config.token_sha256)
            body = await read_body(request, ReplicaEmbeddingRequest, limit=config.max_body_bytes)
            model = self._replica.embedding_model
            if model is not None and body.model not in {"", model}:
                # Vectors of different models cannot be compared.
                detail = f"{body.model!r} makes no vectors here; {model!r} does."
                raise ModelUnknown(detail, param="model")
            given = request.headers.get(headers.REQUEST_TIMEOUT_MS)
            deadline = self._replica.deadline(headers.timeout_milliseconds(given))
        except MongarsError as error:
            return _problem(error)
        return ReplicaResponse(lambda answer: self._embed(answer, body, deadline))

    async def _embed(
        self, answer: ResponseWriter, body: ReplicaEmbeddingRequest, deadline: Deadline
    ) -> None:
        try:
            share = Share(scope=body.cache_salt or None, weight=body.weight or 1.0)
            found = await self._replica.embed(body.texts, deadline, share=share)
            whole: dict[str, Any] = embeddings_body(
                found.vectors,
                request=body,
                model=found.model,
                prompt_tokens=found.prompt_tokens,
            )
        except MongarsError as error:
            await answer.json(status_of(error), openai_body(error), retry_after_header(error))
        else:
            await answer.json(200, whole, {})


def _problem(error: MongarsError) -> Response:
    fixed = retry_after_header(error)
    return JSONResponse(openai_body(error), status_code=status_of(error), headers=fixed)
