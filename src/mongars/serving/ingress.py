"""The HTTP interface of a replica: `/generate` as JSON or server-sent events, `/v1` routes, health and readiness."""

from __future__ import annotations

from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from mongars.core.errors import InvalidRequest, MongarsError, NotFound, NotReady, Overloaded
from mongars.core.ids import accept_id
from mongars.protocol import headers
from mongars.protocol.asgi import EVENT_STREAM_HEADERS, ResponseWriter
from mongars.protocol.field_names import renamed
from mongars.protocol.generate import (
    ERROR_EVENT,
    META_EVENT,
    GenerateRequest,
    answer_body,
    error_body,
    origin_body,
)
from mongars.protocol.head import HeadAsGet, with_head
from mongars.protocol.problems import openai_body, retry_after_header, status_of
from mongars.protocol.sse import encode_event
from mongars.serving.access import check_token, read_body
from mongars.serving.openai_routes import OpenAIRoutes
from mongars.serving.pacing import Pacing
from mongars.serving.refusals import Refusals
from mongars.serving.replica_response import ReplicaResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest, Origin
    from mongars.serving.pacing import Gathered
    from mongars.serving.replica import Replica, ReplicaStream


def build_ingress(replica: Replica) -> FastAPI:
    """Build the ASGI application of one replica: `/generate`, `/v1/models`, `/v1/embeddings`, health and readiness.

    The last two are `/healthz` (also `/health`) and `/readyz`. The path of `/generate` is `generate_path` of the
    replica's configuration. The application's shutdown stops the replica's engines; its start does not start them.
    """

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
    routes = GenerateRoutes(replica)
    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, routes.no_route)
    app.add_exception_handler(HTTPStatus.NOT_FOUND, routes.no_route)
    app.add_api_route(
        replica.config.generate_path, routes.generate, methods=["POST"], response_model=None
    )
    openai = OpenAIRoutes(replica)
    app.add_api_route("/v1/models", openai.models, methods=["GET"], response_model=None)
    app.add_api_route("/v1/embeddings", openai.embeddings, methods=["POST"], response_model=None)
    app.add_api_route("/healthz", routes.health, methods=["GET"], response_model=None)
    app.add_api_route("/health", routes.health, methods=["GET"], response_model=None)
    app.add_api_route("/readyz", routes.ready, methods=["GET"], response_model=None)
    return app


class GenerateRoutes:
    """The HTTP route handlers of one replica for `/generate`, `/healthz` and `/readyz`."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._pacing = Pacing(replica.clock, longest=replica.config.longest_gathering)
        self._refusals = Refusals(replica.clock)

    async def generate(self, request: Request) -> Response:
        """`POST /generate`: answer one request, as JSON or, if the body's `stream` is true, as server-sent events.

        The body has `prompt` or `messages`, and optional fields (`GenerateRequest`). Needs the bearer token if one is
        configured. An error becomes a response with an error status and a JSON object with, among others, `content`
        (empty), `error` (the code), `detail` (the message) and `adapter_version`, or, if events have been sent, the
        last event, named `error`, with that object.
        """
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
        names = body.field_names
        return ReplicaResponse(lambda answer: serve(answer, generation, deadline, names=names))

    async def health(self) -> Response:
        """`GET /healthz`: status 200, with load and engine state as JSON, whatever state the engines are in.

        Keys: `status` (`ok`); of the general engine `model`, `engine`, `adapter_version`, `adapter` (`version` and
        `digest`), `replica` (its id) and `degraded` (whether it cannot use adapters); `active` and `waiting`: requests
        being answered and in queues, embeddings included; `slots`: how many requests are answered at a time,
        embeddings not included; `engine_state`: the worst state of an engine or the embedder, such as `ready` or
        `failed`; and `engine_restarts`, of all together. Engines that serve only requests that demand their adapter
        count in `active` and `waiting` only. Needs no token.
        """
        return JSONResponse({"status": "ok", **self._facts()})

    async def ready(self) -> Response:
        """`GET /readyz`: status 200 if the engines and the embedder are ready, else 409 with the reason.

        Engines that serve only requests that demand their adapter are left out. The body with 200 is a JSON object
        with `status` (`ready`), and model, load and engine state; with 409 one with `content` (empty), `error`
        (`not_ready`), `detail` (the reason) and `adapter_version`, and there is a header `Retry-After`. Needs no
        token.
        """
        status = self._replica.engine_status
        if status.state == "ready":
            return JSONResponse({"status": "ready", **self._facts()})
        error = NotReady(f"The engine is {status.state}. {status.detail}".strip(), retry_after=1.0)
        return self._problem(error)

    async def no_route(self, request: Request, exc: Exception) -> Response:
        """Make the response to an unknown path (404) or a method that a path does not have (405).

        Its body has the format of the path: that of `/generate`, OpenAI's under `/v1`, else `detail` alone. With 405,
        the header `Allow` also lists HEAD where the path has GET. `exc` is the router's exception, with the status and
        `Allow`.
        """
        status = HTTPStatus(getattr(exc, "status_code", HTTPStatus.NOT_FOUND))
        path, detail = request.url.path, f"{request.method} {request.url.path}: {status.phrase}."
        kind = NotFound if status == HTTPStatus.NOT_FOUND else InvalidRequest
        allowed = (getattr(exc, "headers", None) or {}).get("Allow", "")
        methods = with_head([method.strip() for method in allowed.split(",")])
        fixed = {"Allow": ", ".join(methods)} if allowed else {}
        body: dict[str, Any] = {"detail": detail}
        if path == self._replica.config.generate_path:
            body = _error_body(kind(detail), self._replica.origin())
            fixed = {**_origin_headers(self._replica.origin()), **fixed}
        elif path == "/v1" or path.startswith("/v1/"):
            body = openai_body(kind(detail))
        return JSONResponse(body, status_code=status, headers=fixed)

    async def _whole(
        self,
        answer: ResponseWriter,
        generation: GenerationRequest,
        deadline: Deadline,
        *,
        names: Mapping[str, str],
    ) -> None:
        try:
            completion, timings = await self._replica.complete(generation, deadline)
        except MongarsError as error:
            origin = self._replica.origin(generation.task_type)
            await self._refuse(answer, renamed(error, names), origin)
        else:
            fixed = _origin_headers(completion.origin)
            await answer.json(200, answer_body(completion, timings=timings), fixed)

    async def _stream(
        self,
        answer: ResponseWriter,
        generation: GenerationRequest,
        deadline: Deadline,
        *,
        names: Mapping[str, str],
    ) -> None:
        origin = self._replica.origin(generation.task_type)  # for a refusal by the queue
        gathered: Gathered | None = None
        try:
            async with (
                self._replica.stream(generation, deadline) as stream,
                self._pacing.gather(stream.blocks, answers=generation.sampling.n) as gathered,
            ):
                origin = stream.origin
                async for block in gathered.pieces:
                    if answer.started:
                        await answer.write(block)
                        continue
                    # Start the response only now: until the first block a failure can have its own status,
                    # and each further message through Serve delays the first token.
                    await answer.start(200, {**EVENT_STREAM_HEADERS, **_stream_headers(stream)})
                    await answer.write(meta_event(stream, generation.request_id) + block)
        except MongarsError as raised:
            error = renamed(raised, names)
            if not answer.started:
                await self._refuse(answer, error, origin)
                return
            held = b"" if gathered is None else gathered.rest()
            event = encode_event(_error_body(error, origin), name=ERROR_EVENT)
            # The blank line ends an event that may be incomplete.
            await answer.write(held + b"\n\n" + event)
        await answer.end()

    async def _refuse(self, answer: ResponseWriter, error: MongarsError, origin: Origin) -> None:
        if isinstance(error, Overloaded):
            await self._refusals.turn()
        fixed = {**_origin_headers(origin), **retry_after_header(error)}
        await answer.json(status_of(error), _error_body(error, origin), fixed)

    async def _read(self, request: Request) -> GenerateRequest:
        limit = self._replica.config.max_body_bytes
        return await read_body(request, GenerateRequest, limit=limit)

    def _problem(self, error: MongarsError) -> Response:
        origin = self._replica.origin()
        return JSONResponse(
            _error_body(error, origin),
            status_code=status_of(error),
            headers={**_origin_headers(origin), **retry_after_header(error)},
        )

    def _facts(self) -> dict[str, object]:
        return {
            **origin_body(self._replica.origin()),
            **self._replica.load,
            "engine_state": self._replica.engine_status.state,
            "engine_restarts": self._replica.engine_restarts,
        }


def _error_body(error: MongarsError, origin: Origin) -> dict[str, Any]:
    return error_body(error, adapter_version=origin.adapter_version)


def _origin_headers(origin: Origin) -> dict[str, str]:
    # No request id here: Serve's proxy adds the one that came with the request.
    found = {
        headers.ADAPTER_VERSION: origin.adapter_version,
        headers.ADAPTER_DIGEST: origin.adapter_digest,
        headers.REPLICA_ID: origin.replica,
    }
    return {name: value for name, value in found.items() if value is not None}


def _stream_headers(stream: ReplicaStream) -> dict[str, str]:
    continued = {headers.CONTINUED: "true"} if stream.continued else {}
    return {**_origin_headers(stream.origin), **continued}


def meta_event(stream: ReplicaStream, request_id: str) -> bytes:
    """The first server-sent event of a streamed answer, named `meta`, which says how it is generated.

    Its JSON has the keys `request_id`, `queue_seconds` (for which the request waited in the queue), `model`, `engine`,
    `adapter_version`, `adapter` (an object with `version` and `digest`; the digest is null without an adapter),
    `replica` (the replica's id) and `degraded` (whether the engine cannot use the adapters of this deployment).
    """
    facts = {"request_id": request_id, "queue_seconds": stream.queue_seconds}
    return encode_event({**facts, **origin_body(stream.origin)}, name=META_EVENT)
