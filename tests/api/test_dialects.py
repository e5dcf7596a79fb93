"""Dialects (request and error formats): a toy one added as a route table, and the error formats of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fastapi import APIRouter, Request, Response

from mongars.api.dialect import ArrivedRequest, RouteTable
from mongars.api.refused_requests import refused_body
from mongars.api.requests import request_id_of
from mongars.api.serve_answer import serve_answer
from mongars.core.errors import InvalidRequest, NotFound
from mongars.core.generation import GenerationRequest, Message
from mongars.engines.fake import FakePlan
from mongars.protocol.asgi import stream_headers
from mongars.protocol.problems import openai_body

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

    from mongars.api.context import ApiContext
    from mongars.conversation.chat import GeneratedStream
    from mongars.core.deadline import Deadline
    from mongars.core.errors import MongarsError
    from mongars.core.generation import Chunk

    Start = Callable[..., AbstractAsyncContextManager[Api]]


class ToyErrors:
    invalid_status = 418

    def body(self, error: MongarsError) -> object:
        return {"oops": error.code}

    def event(self, error: MongarsError) -> bytes:
        return f"!{error.code}".encode()


class Toy:
    """A dialect whose prompt is the request body; a stream is plain text and ends with a full stop if complete."""

    errors = ToyErrors()
    stream_headers = stream_headers("text/plain")

    def __init__(self, context: ApiContext, *, streamed: bool) -> None:
        self.context, self.streamed = context, streamed

    async def answer(self, request: Request) -> Response:
        return await serve_answer(request, self.context, self)

    def read(self, body: bytes, arrived: ArrivedRequest) -> ToyCall | Response:
        if not body:
            raise InvalidRequest
        if body == b"ping":
            return Response("pong")
        prompt = Message(role="user", content=body.decode())
        generation = GenerationRequest(messages=(prompt,), request_id=request_id_of(arrived.http))
        return ToyCall(self, generation)


class ToyCall:
    def __init__(self, toy: Toy, generation: GenerationRequest) -> None:
        self.toy, self.generation, self.streamed = toy, generation, toy.streamed
        self.text = ""

    def open(self, deadline: Deadline) -> AbstractAsyncContextManager[GeneratedStream]:
        return self.toy.context.llm.open(self.generation, deadline=deadline)

    def body_writer(self, _: GeneratedStream) -> ToyCall:
        return self

    event_writer = body_writer

    def add(self, chunks: Sequence[Chunk]) -> None:
        self.text += "".join(chunk.text for chunk in chunks)

    def body(self) -> object:
        return {"toy": self.text}

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        return "".join(chunk.text for chunk in chunks).encode()

    def end(self) -> bytes:
        return b"."


def toy_routes(context: ApiContext) -> RouteTable:
    router = APIRouter(prefix="/toy")
    for path, streamed in (("/whole", False), ("/stream", True)):
        toy = Toy(context, streamed=streamed)
        router.add_api_route(
            path, toy.answer, methods=["POST"], response_model=None, include_in_schema=False
        )

    @router.get("/defect", include_in_schema=False)
    async def defect() -> None:
        raise RuntimeError

    return RouteTable(router=router, prefix="/toy", errors=ToyErrors())


async def post(api: Api, path: str, data: bytes, **headers: str) -> tuple[int, str, str]:
    async with api.http.post(
        api.url + path, data=data, headers={**api.auth, **headers}
    ) as response:
        return response.status, response.content_type, await response.text()


async def test_a_toy_dialect_answers_whole_and_streamed(start_api: Start) -> None:
    """A route table passed to the application is served like those of the product, whole and streamed."""
    async with start_api(more=(toy_routes,)) as api:
        said = "[1] you said: hi there"
        whole = await post(api, "/toy/whole", b"hi there")
        assert whole == (200, "application/json", f'{{"toy":"{said}"}}')
        assert await post(api, "/toy/stream", b"hi there") == (200, "text/plain", f"{said}.")
        assert (await post(api, "/toy/whole", b"ping"))[2] == "pong"


async def test_a_toy_dialect_writes_its_own_errors(start_api: Start) -> None:
    """Errors before a response, within a stream and from the framework have the format of the route's dialect."""
    async with start_api(
        FakePlan(cut_after_tokens=1, context_tokens=200), more=(toy_routes,)
    ) as api:
        status, _, text = await post(api, "/toy/stream", b"hi there")
        assert (status, text) == (200, "[1]!generation_interrupted")
        status, _, text = await post(api, "/toy/whole", b"hi there")
        assert (status, text) == (500, '{"oops":"generation_interrupted"}')
        for path, data, headers, expected in (
            ("/toy/stream", b"word " * 300, {}, (400, '{"oops":"context_length_exceeded"}')),
            ("/toy/whole", b"", {}, (418, '{"oops":"invalid_request"}')),
            ("/toy/whole", b"x" * 1_000_001, {}, (413, '{"oops":"too_large"}')),
            ("/toy/none", b"x", {}, (404, '{"oops":"not_found"}')),
            ("/toy/defect", b"x", {}, (405, '{"oops":"invalid_request"}')),
            ("/toy/whole", b"x", {"Authorization": ""}, (401, '{"oops":"not_authenticated"}')),
        ):
            status, _, text = await post(api, path, data, **headers)
            assert (status, text) == expected
        async with api.http.get(f"{api.url}/toy/defect") as response:
            assert (response.status, await response.json()) == (500, {"oops": "inference_failed"})


@pytest.mark.parametrize(
    ("path", "nested"),
    [
        ("/v1/nothing", {"message", "type", "param", "code"}),
        ("/v1", {"message", "type", "param", "code"}),
        ("/api/nothing", None),
        ("/api/chat/nothing", None),
    ],
)
async def test_unknown_paths_have_the_format_of_their_prefix(
    api: Api, path: str, nested: set[str] | None
) -> None:
    """An unknown path gets 404 with OpenAI's error object under `/v1` and Ollama's error text under `/api`."""
    async with api.http.get(api.url + path, headers=api.auth) as response:
        found = await response.json()
    assert response.status == 404
    assert found.keys() == {"error"}
    assert nested is None or found["error"].keys() == nested
    assert path in str(found["error"])


@pytest.mark.parametrize("path", ["/nothing", "/v1x", "/apix", "/api/v1/nothing", "/api/v1"])
async def test_other_paths_have_the_format_of_mongars(api: Api, path: str) -> None:
    """An unknown path under `/api/v1` or without a known prefix gets 404 with `detail` and an error code."""
    async with api.http.get(api.url + path, headers=api.auth) as response:
        found: dict[str, Any] = await response.json()
    assert (response.status, found["error"]) == (404, "not_found")
    assert path in found["detail"]


@pytest.mark.parametrize("method", ["DELETE", "PUT"])
@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/v1/chat/completions", {"error"}),
        ("/api/chat", {"error"}),
        ("/api/v1/conversation/chat", {"detail", "error"}),
        ("/token", {"detail", "error"}),
    ],
)
async def test_a_wrong_method_has_the_format_of_the_route(
    api: Api, path: str, keys: set[str], method: str
) -> None:
    """A wrong method gets 405 with an `Allow` header, in the error format of the path's dialect."""
    async with api.http.request(method, api.url + path, headers=api.auth) as response:
        assert response.status == 405
        assert "POST" in response.headers["Allow"]
        found = await response.json()
    assert found.keys() == keys
    assert isinstance(found["error"], dict) == path.startswith("/v1")


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/nothing", "/v1x", "/api", "/api/nothing", "/apix", "/api/v1", "/api/v1/no"],
)
async def test_a_request_refused_before_routing_has_the_format_of_its_path(
    api: Api, path: str
) -> None:
    """What the HTTP server refuses itself has the error format that the application has for the same path."""
    async with api.http.get(api.url + path, headers=api.auth) as response:
        routed = await response.json()
    detail = f"GET {path}: Not Found."
    assert refused_body(path, NotFound(detail)) == routed


def test_a_refused_request_without_a_path_has_openais_format() -> None:
    """If the request line could not be read, the error has OpenAI's format."""
    assert refused_body("", InvalidRequest("no")) == openai_body(InvalidRequest("no"))
