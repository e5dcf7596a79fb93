"""The routes of Ollama's API, except those for embeddings."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from mongars.api import ollama_schemas as schemas
from mongars.api.description import READING, answering, body, reference, responses
from mongars.api.dialect import RouteTable
from mongars.api.models import MODEL_ALIAS
from mongars.api.ollama_dialect import OLLAMA_ERRORS, OllamaDialect, OllamaModels
from mongars.api.requests import principal_of, read_json
from mongars.api.serve_answer import serve_answer
from mongars.protocol import ollama_requests as requests
from mongars.protocol import ollama_responses as bodies

if TYPE_CHECKING:
    from mongars.api.context import ApiContext

NEVER = timedelta(days=36_525)
"""The distance of `expires_at` from now, 100 years, as models are not unloaded. Clients show it as `Forever`."""
CHAT_EXAMPLE = {"model": MODEL_ALIAS, "messages": [{"role": "user", "content": "Say hello."}]}
GENERATE_EXAMPLE = {"model": MODEL_ALIAS, "prompt": "Say hello."}
REQUESTS = (requests.OllamaChatRequest, requests.OllamaGenerateRequest, requests.OllamaShowRequest)


def ollama_routes(context: ApiContext) -> RouteTable:
    """The route table of Ollama's API, without embeddings: `/api/chat`, `generate`, `show`, `tags`, `ps`, `version`."""
    handlers = OllamaRoutes(context)
    router = APIRouter(prefix="/api", tags=["ollama"])
    for path, handler, request, example, response in (
        (
            "/chat",
            handlers.ollama_chat,
            requests.OllamaChatRequest,
            CHAT_EXAMPLE,
            schemas.OllamaChat,
        ),
        (
            "/generate",
            handlers.ollama_generate,
            requests.OllamaGenerateRequest,
            GENERATE_EXAMPLE,
            schemas.OllamaGenerated,
        ),
    ):
        described = answering(
            request,
            example,
            response,
            error=schemas.OllamaError,
            events="Unless `stream` is false: a JSON object per line; `done` is true in the last.",
            stream_type=bodies.MEDIA_TYPE,
        )
        router.add_api_route(path, handler, methods=["POST"], response_model=None, **described)
    router.add_api_route(
        "/show",
        handlers.ollama_show,
        methods=["POST"],
        response_model=None,
        openapi_extra=body(requests.OllamaShowRequest, {"model": MODEL_ALIAS}),
        responses=responses(
            *(reference(schemas.OllamaShown), *READING, 400, 404, 413, 415),
            error=schemas.OllamaError,
        ),
    )
    for path, listing, schema in (
        ("/tags", handlers.ollama_tags, schemas.OllamaTags),
        ("/ps", handlers.ollama_ps, schemas.OllamaRunning),
        ("/version", handlers.ollama_version, schemas.OllamaVersion),
    ):
        router.add_api_route(
            path,
            listing,
            methods=["GET"],
            response_model=None,
            responses=responses(reference(schema), *READING, error=schemas.OllamaError),
        )
    return RouteTable(
        router=router, prefix="/api", errors=OLLAMA_ERRORS, models=(*schemas.RESPONSES, *REQUESTS)
    )


class OllamaRoutes:
    """Handlers of the routes of Ollama's API, except those for embeddings."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._models = OllamaModels(context)
        self._chat = OllamaDialect(context, requests.OllamaChatRequest)
        self._generate = OllamaDialect(context, requests.OllamaGenerateRequest)
        self._since = bodies.timestamp(context.clock.now())

    async def ollama_chat(self, request: Request) -> Response:
        """Answer a conversation (`messages`), as Ollama does: a stream of JSON lines unless `stream` is false.

        Without messages, the response only confirms that the model is loaded.
        """
        return await serve_answer(request, self._context, self._chat)

    async def ollama_generate(self, request: Request) -> Response:
        """Answer a `prompt`, as Ollama does: a stream of JSON lines unless `stream` is false.

        If the prompt is empty, the response only confirms that the model is loaded.
        """
        return await serve_answer(request, self._context, self._generate)

    async def ollama_tags(self, request: Request) -> Response:
        """List the served models, the embedding model included, in the form of Ollama's `/api/tags`."""
        await principal_of(request, self._context.authenticator)
        found = [bodies.model_body(n, modified_at=self._since) for n in self._models.listed]
        return JSONResponse({"models": found})

    async def ollama_show(self, request: Request) -> Response:
        """Show the details of the model named `model` (or `name`), in the form of Ollama's `/api/show`; 404 if unknown.

        Its file, size and template are not known to the API and left empty.
        """
        await principal_of(request, self._context.authenticator)
        limit = self._context.config.max_body_bytes
        read = await read_json(request, requests.OllamaShowRequest, limit=limit)
        name = self._models.find_listed(read.named)
        embedding = self._models.gives_embeddings(name)
        shown = bodies.show_body(
            name,
            modified_at=self._since,
            context_tokens=None if embedding else self._context.config.context_tokens,
            capability="embedding" if embedding else "completion",
        )
        return JSONResponse(shown)

    async def ollama_ps(self, request: Request) -> Response:
        """List the loaded models, in the form of Ollama's `/api/ps`.

        These are all text-generating models if Ray Serve or a local model server is up, else none.
        """
        await principal_of(request, self._context.authenticator)
        up = any(status.state == "up" for status in await self._context.llm.status())
        forever = bodies.timestamp(self._context.clock.now() + NEVER)
        window = self._context.config.context_tokens
        found = [
            bodies.running_body(name, expires_at=forever, context_tokens=window)
            for name in (self._models.names if up else ())
        ]
        return JSONResponse({"models": found})

    async def ollama_version(self, request: Request) -> Response:
        """Report the version of monGARS, as `version`."""
        await principal_of(request, self._context.authenticator)
        return JSONResponse({"version": self._context.config.version})
