"""The OpenAPI description of the API (`/openapi.json`): bodies, responses, media types and authentication.

Routes read their bodies themselves, so FastAPI does not know the models. Each route is registered with a
description made here, whose references to schemas are resolved by `openapi_of`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from mongars.api import schemas
from mongars.protocol import headers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import FastAPI
    from pydantic import BaseModel

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
EVENT_STREAM = "text/event-stream"
PLAIN = "text/plain"

READING = (401, 500, 503)
"""The HTTP error statuses of every route that requires authentication."""
BODY = (413, 415)
_ANSWERING = (400, 404, 429, 502, 504)

_SCHEME = "bearer"
_REFERENCE = "#/components/schemas/{model}"
_WAITING = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_ANSWERED = {
    headers.PROVIDER: "The provider: ray_serve, ollama or embedded.",
    headers.ENDPOINT: "The endpoint of the provider.",
    headers.ATTEMPTS: "How many requests to model servers were sent.",
    headers.FALLBACK: "Whether a preferred provider failed.",
    headers.ADAPTER_VERSION: "The adapter of the model.",
}
_ANSWER_HEADERS = {
    name: {"description": meaning, "schema": {"type": "string"}}
    for name, meaning in _ANSWERED.items()
}

_ROUTE_HEADERS = {
    name: meaning for name, meaning in _ANSWER_HEADERS.items() if name != headers.ADAPTER_VERSION
}

_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    headers.SESSION_ID: (
        "The conversation that the request belongs to.",
        {"maxLength": 100},  # what every route accepts; all but that for conversations accept 200
    ),
    headers.REQUEST_TIMEOUT_MS: (
        "Milliseconds the client will wait.",
        {"pattern": r"^[0-9]{1,9}$"},
    ),
    headers.REQUEST_ID: (
        "Returned with the response. An id other than 1 to 128 letters, digits, `.`, `_`, `:` and `-` is replaced.",
        {},
    ),
}
_READ = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": meaning,
        "schema": {"type": "string", **limits},
    }
    for name, (meaning, limits) in _HEADERS.items()
]


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """An OpenAPI reference (`$ref`) to the schema of a pydantic model; `openapi_of` adds the schema itself."""
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def body(
    model: type[BaseModel], example: dict[str, Any], *, media_type: str = JSON, **more: object
) -> dict[str, Any]:
    """The `openapi_extra` of a FastAPI route whose request body is `model`, with an example of the body.

    `more` are further fields of the OpenAPI operation.
    """
    content = {media_type: {"schema": reference(model), "example": example}}
    return {"requestBody": {"required": True, "content": content}, **more}


def responses(
    schema: dict[str, Any],
    *statuses: int,
    error: type[BaseModel] = schemas.Problem,
    events: str = "",
    stream_type: str = EVENT_STREAM,
    **more: object,
) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route: 200 with a JSON body of `schema`, and an error body `error` for each status.

    `schema` is an OpenAPI schema, or a reference `{"$ref": …}` to one. If `events`, a description of stream events, is
    not empty, 200 may also be a stream of the media type `stream_type`. `more` are further fields of the response 200,
    such as `headers`.
    """
    content: dict[str, Any] = {JSON: {"schema": schema}}
    if events:
        content[stream_type] = {"schema": {"description": events}}
    found: dict[int | str, dict[str, Any]] = {
        200: {"description": HTTPStatus.OK.phrase, "content": content, **more}
    }
    for status in sorted(set(statuses)):
        found[status] = problem(status, error)
    return found


def problem(status: int, error: type[BaseModel] = schemas.Problem) -> dict[str, Any]:
    """The OpenAPI description of the error response `status` (HTTP) with a JSON body of the model `error`.

    The statuses 429 and 503 also have the header `Retry-After`.
    """
    found = {
        "description": HTTPStatus(status).phrase,
        "content": {JSON: {"schema": reference(error)}},
    }
    return {**found, "headers": _WAITING} if status in {429, 503} else found


OPEN: dict[str, Any] = {"security": []}
"""The `openapi_extra` of a route that needs no API key."""


def embedding(
    request: type[BaseModel],
    example: dict[str, Any],
    response: type[BaseModel],
    *,
    error: type[BaseModel],
) -> dict[str, Any]:
    """Keyword arguments of FastAPI's `add_api_route` that describe a route that computes embeddings.

    They are `openapi_extra` and `responses`.

    `request`, `response` and `error` are the models of the bodies of requests, responses and error responses; `example`
    is a request body.
    """
    statuses = (*READING, *BODY, *_ANSWERING)
    return {
        "openapi_extra": body(request, example, parameters=_READ),
        "responses": responses(reference(response), *statuses, error=error, headers=_ROUTE_HEADERS),
    }


def answering(
    request: type[BaseModel],
    example: dict[str, Any],
    response: type[BaseModel],
    *statuses: int,
    events: str,
    error: type[BaseModel] = schemas.Problem,
    stream_type: str = EVENT_STREAM,
) -> dict[str, Any]:
    """Keyword arguments of FastAPI's `add_api_route` that describe a route that generates an answer.

    They are `openapi_extra` and `responses`.

    `request`, `response` and `error` are the models of the bodies of requests, responses and error responses; `example`
    is a request body. `statuses` are HTTP error statuses besides 400, 401, 404, 413, 415, 429, 500 and 502 to 504.
    `events` is the text about the events of its stream, which has the media type `stream_type`.
    """
    return {
        "openapi_extra": body(request, example, parameters=_READ),
        "responses": responses(
            reference(response),
            *(*READING, *BODY, *_ANSWERING, *statuses),
            error=error,
            events=events,
            stream_type=stream_type,
            headers=_ANSWER_HEADERS,
        ),
    }


def openapi_of(app: FastAPI, models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The OpenAPI document of `app`, as a JSON object.

    `models` are the pydantic models that the descriptions of its routes refer to with `reference`.
    """
    found = app.openapi()
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE
    )
    components = found.setdefault("components", {})
    # FastAPI's own error bodies are never sent: `api.error_responses` writes errors in the format of the path.
    components["schemas"] = definitions["$defs"]
    components["securitySchemes"] = {
        _SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, or a token of `POST /token`.",
        }
    }
    found["security"] = [{_SCHEME: []}]
    return found
