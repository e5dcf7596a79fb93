"""How errors are answered: `/v1` in OpenAI's shape, everything else as `{"detail": …}`."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from mongars.api.answers import problem_headers
from mongars.api.requests import request_id_of
from mongars.core.errors import InferenceFailed, InvalidRequest, MongarsError, NotFound
from mongars.protocol.head import with_head
from mongars.protocol.problems import error_facts, openai_body, status_of

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

OPENAI_PREFIX = "/v1/"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def install_problem_handlers(app: FastAPI) -> None:
    """Make every expected error of a route an answer with a real status and a helpful body."""
    app.add_exception_handler(MongarsError, expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, unexpected)


def problem_response(request: Request, error: MongarsError, *, status: int) -> Response:
    """The answer to an error, in the dialect of the route."""
    headers = problem_headers(error, request_id_of(request))
    if status == 401:  # noqa: PLR2004
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(problem_body(request.url.path, error), status_code=status, headers=headers)


def problem_body(path: str, error: MongarsError) -> dict[str, Any]:
    """The body of an error in the dialect of a path."""
    if path.startswith(OPENAI_PREFIX):
        return openai_body(error)
    return {"detail": str(error), "error": error.code, **error_facts(error)}


async def expected(request: Request, exc: Exception) -> Response:
    """The answer to one of our own errors."""
    error = exc if isinstance(exc, MongarsError) else MongarsError()
    status = status_of(error)
    if isinstance(error, InvalidRequest) and not request.url.path.startswith(OPENAI_PREFIX):
        status = 422  # what callers of the earlier monGARS know from its own routes
    return problem_response(request, error, status=status)


async def _invalid(request: Request, exc: Exception) -> Response:
    detail = str(exc)
    if isinstance(exc, RequestValidationError):
        parts = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in exc.errors()]
        detail = "; ".join(parts) + "."
    return problem_response(request, InvalidRequest(detail), status=422)


async def unexpected(request: Request, _: Exception) -> Response:
    """A defect of ours: the log has it, the caller gets a body like any other."""
    return problem_response(request, InferenceFailed("Internal error."), status=500)


async def _framework(request: Request, exc: Exception) -> Response:
    status, reason = 500, "Internal error."
    if isinstance(exc, HTTPException):
        status, reason = exc.status_code, f"{request.method} {request.url.path}: {exc.detail}."
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return _not_allowed(request, InvalidRequest(reason))
    kind = NotFound if status == HTTPStatus.NOT_FOUND else InvalidRequest
    return problem_response(request, kind(reason), status=status)


def _not_allowed(request: Request, error: InvalidRequest) -> Response:
    """405, or the answer to OPTIONS; both name the methods of all routes of the path."""
    methods = [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]
    allow = {"allow": ", ".join([*with_head(methods), "OPTIONS"])}
    if request.method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=allow)
    response = problem_response(request, error, status=HTTPStatus.METHOD_NOT_ALLOWED)
    response.headers.update(allow)
    return response
