"""Responses to errors outside a generated answer, in the error format (client API) of the request's path."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from mongars.api.answers import problem_headers
from mongars.api.error_formats import OWN_ERRORS
from mongars.api.requests import request_id_of
from mongars.core.errors import InferenceFailed, InvalidRequest, MongarsError, NotFound
from mongars.protocol.head import with_head
from mongars.protocol.problems import status_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import FastAPI, Request

    from mongars.api.dialect import ErrorFormat, RouteTable
    from mongars.protocol.asgi import ResponseWriter

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class ErrorResponses:
    """Makes the response to every exception of a route: `MongarsError`, unknown path, unexpected error.

    Its format is `errors` of the route table in `tables` with the longest `prefix` of the request's path (whole
    segments); if none has one, that of `OwnErrors`: `{"detail": text, "error": code}`.
    """

    def __init__(self, tables: Iterable[RouteTable] = ()) -> None:
        found = sorted(tables, key=lambda table: len(table.prefix), reverse=True)
        self._formats = [(table.prefix, table.errors) for table in found]

    def install(self, app: FastAPI) -> None:
        """Register exception handlers with `app`: every error gets a status and a JSON body with the reason."""
        app.add_exception_handler(MongarsError, self.expected)
        app.add_exception_handler(RequestValidationError, self._invalid)
        app.add_exception_handler(HTTPException, self._framework)
        app.add_exception_handler(Exception, self.unexpected)

    def format_of(self, path: str) -> ErrorFormat:
        """The error format of the route table with the longest `prefix` of `path`; `OwnErrors` if there is none.

        Only whole segments count: `/v1` is a prefix of `/v1/models`, not of `/v10`.
        """
        return format_for(path, self._formats)

    async def expected(self, request: Request, exc: Exception) -> Response:
        """The response to a `MongarsError`: the status of its class, a body in the error format of the path.

        The status of an `InvalidRequest` is that of the format, 400 or 422.
        """
        error = exc if isinstance(exc, MongarsError) else MongarsError()
        status = error_status(error, self.format_of(request.url.path))
        return self._response(request, error, status=status)

    async def unexpected(self, request: Request, _: Exception) -> Response:
        """The response to any other exception: 500 without details, which only the log contains."""
        return self._response(request, InferenceFailed("Internal error."), status=500)

    async def _invalid(self, request: Request, exc: Exception) -> Response:
        detail = str(exc)
        if isinstance(exc, RequestValidationError):
            parts = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in exc.errors()]
            detail = "; ".join(parts) + "."
        return self._response(request, InvalidRequest(detail), status=422)

    async def _framework(self, request: Request, exc: Exception) -> Response:
        status, reason = 500, "Internal error."
        if isinstance(exc, HTTPException):
            status, reason = exc.status_code, f"{request.method} {request.url.path}: {exc.detail}."
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            return self._not_allowed(request, InvalidRequest(reason))
        kind = NotFound if status == HTTPStatus.NOT_FOUND else InvalidRequest
        return self._response(request, kind(reason), status=status)

    def _not_allowed(self, request: Request, error: InvalidRequest) -> Response:
        """The response to a method that the path does not support; the header `allow` lists those that it does.

        OPTIONS: 204 without a body. Other methods: 405 with `error` as the body.
        """
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
        response = self._response(request, error, status=HTTPStatus.METHOD_NOT_ALLOWED)
        response.headers.update(allow)
        return response

    def _response(self, request: Request, error: MongarsError, *, status: int) -> Response:
        headers = problem_headers(error, request_id_of(request))
        if status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        body = self.format_of(request.url.path).body(error)
        return JSONResponse(body, status_code=status, headers=headers)


def format_for(path: str, formats: Iterable[tuple[str, ErrorFormat]]) -> ErrorFormat:
    """The error format of the first prefix in `formats` that `path` has; `OwnErrors` if there is none.

    Only whole segments count: `/v1` is a prefix of `/v1/models`, not of `/v10`.
    """
    for prefix, errors in formats:
        if path == prefix or path.startswith(f"{prefix}/"):
            return errors
    return OWN_ERRORS


def error_status(error: MongarsError, errors: ErrorFormat) -> int:
    """The HTTP status of a response with `error`; that of an `InvalidRequest` is `errors.invalid_status`, 400 or 422."""
    invalid = isinstance(error, InvalidRequest)
    return errors.invalid_status if invalid else status_of(error)


async def refuse(
    response: ResponseWriter,
    error: MongarsError,
    errors: ErrorFormat,
    *,
    request_id: str,
    chose_wait: bool,
) -> None:
    """Write a complete error response: status, headers, and a body in the format `errors`.

    Call it only if no byte of a response was sent. `request_id` becomes the header `x-request-id`. `chose_wait`:
    whether the client set the request's deadline itself; OpenAI's clients may then repeat it after a timeout (504).
    """
    found = problem_headers(error, request_id, chose_wait=chose_wait)
    await response.json(error_status(error, errors), errors.body(error), found)
