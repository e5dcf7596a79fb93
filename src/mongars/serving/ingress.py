"""The HTTP face of a replica: `/generate` as JSON or server-sent events, health, readiness."""

from __future__ import annotations

import contextlib
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from mongars.core.errors import (
    AdapterUnknown,
    InvalidRequest,
    MongarsError,
    NotReady,
    TooLarge,
)
from mongars.core.ids import accept_id
from mongars.protocol import headers
from mongars.protocol.asgi import EVENT_STREAM_HEADERS, Answer, run_until_disconnect
from mongars.protocol.generate import (
    ERROR_EVENT,
    META_EVENT,
    GenerateRequest,
    answer_body,
    error_body,
    origin_body,
)
from mongars.protocol.problems import retry_after_header, status_of
from mongars.protocol.sse import encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from starlette.types import Receive, Scope, Send

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.serving.replica import Replica, ReplicaStream


def build_ingress(replica: Replica) -> FastAPI:
    """The application that serves one replica; its shutdown stops the replica's engine."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await replica.aclose()

    app = FastAPI(title="monGARS replica", lifespan=lifespan, docs_url=None, redoc_url=None)
    door = GenerateDoor(replica)
    app.add_api_route(
        replica.config.generate_path, door.generate, methods=["POST"], response_model=None
    )
    app.add_api_route("/healthz", door.health, methods=["GET"], response_model=None)
    app.add_api_route("/readyz", door.ready, methods=["GET"], response_model=None)
    return app


class AnswerResponse(Response):
    """A response that a coroutine writes; cancelled when the client leaves."""

    def __init__(self, serve: Callable[[Answer], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self._serve = serve

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Run the coroutine until it ends or the client disconnects."""
        await run_until_disconnect(receive, lambda: self._serve(Answer(send)))


class GenerateDoor:
    """The route handlers of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def generate(self, request: Request) -> Response:
        """`POST /generate`: one answer, whole or streamed; see `protocol.generate`."""
        request_id = accept_id(request.headers.get(headers.REQUEST_ID), prefix="req")
        try:
            body = await self._read(request)
            generation = body.to_generation(request_id=request_id)
            deadline = self._replica.deadline(timeout_of(request))
        except MongarsError as error:
            return self._problem(error, request_id)
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
        return self._problem(error, None)

    async def _whole(
        self, answer: Answer, generation: GenerationRequest, deadline: Deadline
    ) -> None:
        fixed = self._headers(generation.request_id)
        try:
            completion, timings = await self._replica.complete(generation, deadline)
        except MongarsError as error:
            fixed |= retry_after_header(error)
            await answer.json(status_of(error), self._error_body(error), fixed)
        else:
            await answer.json(200, answer_body(completion, timings=timings), fixed)

    async def _stream(
        self, answer: Answer, generation: GenerationRequest, deadline: Deadline
    ) -> None:
        fixed = self._headers(generation.request_id)
        try:
            async with self._replica.stream(generation, deadline) as stream:
                await answer.start(200, {**EVENT_STREAM_HEADERS, **fixed})
                await answer.write(meta_event(stream, generation.request_id))
                async for block in stream.blocks:
                    await answer.write(block)
        except MongarsError as error:
            if not answer.started:
                fixed |= retry_after_header(error)
                await answer.json(status_of(error), self._error_body(error), fixed)
                return
            # The blank line ends an event that was cut in the middle.
            await answer.write(b"\n\n" + encode_event(self._error_body(error), name=ERROR_EVENT))
        await answer.end()

    async def _read(self, request: Request) -> GenerateRequest:
        raw = await read_body(request, limit=self._replica.config.max_body_bytes)
        body = parse_body(raw)
        asked = body.adapter.version if body.adapter else None
        if asked is not None and asked != self._replica.origin.adapter_version:
            detail = f"This replica does not serve adapter {asked!r}."
            raise AdapterUnknown(detail)
        return body

    def _problem(self, error: MongarsError, request_id: str | None) -> Response:
        return JSONResponse(
            self._error_body(error),
            status_code=status_of(error),
            headers={**self._headers(request_id), **retry_after_header(error)},
        )

    def _error_body(self, error: MongarsError) -> dict[str, Any]:
        return error_body(error, adapter_version=self._replica.origin.adapter_version)

    def _headers(self, request_id: str | None) -> dict[str, str]:
        origin = self._replica.origin
        found = {
            headers.REQUEST_ID: request_id,
            headers.ADAPTER_VERSION: origin.adapter_version,
            headers.ADAPTER_DIGEST: origin.adapter_digest,
            headers.REPLICA_ID: origin.replica,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _facts(self) -> dict[str, object]:
        status = self._replica.engine_status
        return {
            **origin_body(self._replica.origin),
            **self._replica.load,
            "engine_state": status.state,
            "engine_restarts": status.restarts,
        }


def meta_event(stream: ReplicaStream, request_id: str) -> bytes:
    """The first event of a stream: who answers, and how long the request waited in seconds."""
    facts = {"request_id": request_id, "queue_seconds": stream.queue_seconds}
    return encode_event({**facts, **origin_body(stream.origin)}, name=META_EVENT)


def timeout_of(request: Request) -> float | None:
    """The milliseconds the caller will still wait. Raises `InvalidRequest` if unreadable."""
    text = request.headers.get(headers.REQUEST_TIMEOUT_MS)
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        value = float(text)
        if value > 0 and math.isfinite(value):
            return value
    detail = f"Header {headers.REQUEST_TIMEOUT_MS} must be a positive number, got {text!r}."
    raise InvalidRequest(detail)


async def read_body(request: Request, *, limit: int) -> bytes:
    """The request body. Raises `TooLarge` as soon as it exceeds the limit, without reading on."""
    detail = f"The request body is larger than {limit} bytes."
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(detail)
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > limit:
            raise TooLarge(detail)
    return bytes(body)


def parse_body(raw: bytes) -> GenerateRequest:
    """The request in the body. Raises `InvalidRequest` naming the field that is wrong."""
    try:
        payload = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        detail = f"Unable to parse JSON payload: {exc}."
        raise InvalidRequest(detail) from exc
    if not isinstance(payload, dict):
        detail = "Request payload must be an object."
        raise InvalidRequest(detail)
    try:
        return GenerateRequest.model_validate(payload)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        detail = f"Field {where!r}: {first['msg']}."
        raise InvalidRequest(detail) from exc
