"""The HTTP face of a replica: `/generate` as JSON or server-sent events, health, readiness."""

from __future__ import annotations

from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from mongars.core.errors import MongarsError, NotReady, Overloaded
from mongars.core.ids import accept_id
from mongars.protocol import headers
from mongars.protocol.asgi import EVENT_STREAM_HEADERS, ResponseWriter
from mongars.protocol.generate import (
    ERROR_EVENT,
    META_EVENT,
    GenerateRequest,
    answer_body,
    error_body,
    origin_body,
)
from mongars.protocol.head import HeadAsGet, with_head
from mongars.protocol.problems import retry_after_header, status_of
from mongars.protocol.sse import encode_event
from mongars.serving.access import check_token, read_body
from mongars.serving.answer_response import AnswerResponse
from mongars.serving.openai_door import OpenAIDoor
from mongars.serving.pacing import Pacing
from mongars.serving.refusals import Refusals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.serving.pacing import Gathered
    from mongars.serving.replica import Replica, ReplicaStream


def build_ingress(replica: Replica) -> FastAPI:
    """The application that serves one replica; its shutdown stops the replica's engine."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await replica.aclose()

    app = FastAPI(
        title="monGARS replica",
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,  # the redirect would repeat the Host header
    )
    app.add_middleware(HeadAsGet)
    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, _not_allowed)
    door = GenerateDoor(replica)
    app.add_api_route(
        replica.config.generate_path, door.generate, methods=["POST"], response_model=None
    )
    openai = OpenAIDoor(replica)
    app.add_api_route("/v1/models", openai.models, methods=["GET"], response_model=None)
    app.add_api_route("/v1/embeddings", openai.embeddings, methods=["POST"], response_model=None)
    app.add_api_route("/healthz", door.health, methods=["GET"], response_model=None)
    app.add_api_route("/health", door.health, methods=["GET"], response_model=None)
    app.add_api_route("/readyz", door.ready, methods=["GET"], response_model=None)
    return app


async def _not_allowed(request: Request, exc: Exception) -> Response:
    """405 whose `Allow` names HEAD, too, where the path has GET."""
    allowed = (getattr(exc, "headers", None) or {}).get("Allow", "")
    methods = with_head([method.strip() for method in allowed.split(",")])
    detail = f"{request.method} {request.url.path}: Method Not Allowed."
    return JSONResponse(
        {"detail": detail},
        status_code=HTTPStatus.METHOD_NOT_ALLOWED,
        headers={"Allow": ", ".join(methods)},
    )


class GenerateDoor:
    """The route handlers of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._pacing = Pacing(replica.clock, longest=replica.config.longest_gathering)
        self._refusals = Refusals(replica.clock)

    async def generate(self, request: Request) -> Response:
        """`POST /generate`: one answer, whole or streamed; see `protocol.generate`."""
        request_id = accept_id(request.headers.get(headers.REQUEST_ID), prefix="req")
        try:
            check_token(request, self._replica.config.token_sha256)
            body = await self._read(request)
            generation = body.to_generation(request_id=request_id)
            given = request.headers.get(headers.REQUEST_TIMEOUT_MS)
            deadline = self._replica.deadline(headers.timeout_milliseconds(given))
        except MongarsError as error:
            return self._problem(error)
        serve = self._stream if body.stream else self._whole
        return AnswerResponse(lambda answer: serve(answer, generation, deadline))

    async def health(self) -> Response:
        """Alive, whatever the engine does."""
        return JSONResponse({"status": "ok", **self._facts()})

    async def ready(self) -> Response:
        """Whether a question asked now would be answered; 409 with the reason if not."""
        status = self._replica.engine_status
        if status.state == "ready":
            return JSONResponse({"status": "ready", **self._facts()})
        error = NotReady(f"The engine is {status.state}. {status.detail}".strip(), retry_after=1.0)
        return self._problem(error)

    async def _whole(
        self, answer: ResponseWriter, generation: GenerationRequest, deadline: Deadline
    ) -> None:
        fixed = self._headers(generation.task_type)
        try:
            completion, timings = await self._replica.complete(generation, deadline)
        except MongarsError as error:
            await self._refuse(answer, error, fixed)
        else:
            await answer.json(200, answer_body(completion, timings=timings), fixed)

    async def _stream(
        self, answer: ResponseWriter, generation: GenerationRequest, deadline: Deadline
    ) -> None:
        fixed = self._headers(generation.task_type)
        gathered: Gathered | None = None
        try:
            async with (
                self._replica.stream(generation, deadline) as stream,
                self._pacing.gather(stream.blocks, answers=generation.sampling.n) as gathered,
            ):
                async for block in gathered.pieces:
                    if answer.started:
                        await answer.write(block)
                        continue
                    # Not before: until here a failure still has its real status, and every
                    # message through Serve takes time from the engine's first token.
                    if stream.continued:
                        fixed[headers.CONTINUED] = "true"
                    await answer.start(200, {**EVENT_STREAM_HEADERS, **fixed})
                    await answer.write(meta_event(stream, generation.request_id) + block)
        except MongarsError as error:
            if not answer.started:
                await self._refuse(answer, error, fixed)
                return
            held = b"" if gathered is None else gathered.rest()
            event = encode_event(self._error_body(error), name=ERROR_EVENT)
            # The blank line ends an event that was cut in the middle.
            await answer.write(held + b"\n\n" + event)
        await answer.end()

    async def _refuse(
        self, answer: ResponseWriter, error: MongarsError, fixed: dict[str, str]
    ) -> None:
        if isinstance(error, Overloaded):
            await self._refusals.turn()
        fixed |= retry_after_header(error)
        await answer.json(status_of(error), self._error_body(error), fixed)

    async def _read(self, request: Request) -> GenerateRequest:
        limit = self._replica.config.max_body_bytes
        body = await read_body(request, GenerateRequest, limit=limit)
        if body.adapter is not None:
            body.adapter.check(self._replica.origin(body.task_type))
        return body

    def _problem(self, error: MongarsError) -> Response:
        return JSONResponse(
            self._error_body(error),
            status_code=status_of(error),
            headers={**self._headers(), **retry_after_header(error)},
        )

    def _error_body(self, error: MongarsError) -> dict[str, Any]:
        return error_body(error, adapter_version=self._replica.origin().adapter_version)

    def _headers(self, task_type: str = "general") -> dict[str, str]:
        # No request id here: Serve's proxy adds the one that came with the request.
        origin = self._replica.origin(task_type)
        found = {
            headers.ADAPTER_VERSION: origin.adapter_version,
            headers.ADAPTER_DIGEST: origin.adapter_digest,
            headers.REPLICA_ID: origin.replica,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _facts(self) -> dict[str, object]:
        status = self._replica.engine_status
        return {
            **origin_body(self._replica.origin()),
            **self._replica.load,
            "engine_state": status.state,
            "engine_restarts": status.restarts,
        }


def meta_event(stream: ReplicaStream, request_id: str) -> bytes:
    """The first event of a stream: who answers, and how long the request waited in seconds."""
    facts = {"request_id": request_id, "queue_seconds": stream.queue_seconds}
    return encode_event({**facts, **origin_body(stream.origin)}, name=META_EVENT)
