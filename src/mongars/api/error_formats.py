"""The error formats of monGARS' own routes and of OpenAI's."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from mongars.protocol.problems import error_facts, openai_body
from mongars.protocol.sse import encode_event

if TYPE_CHECKING:
    from mongars.core.errors import MongarsError


class OwnErrors:
    """`{"detail": …, "error": code}`; an invalid request is 422, as in the earlier monGARS."""

    invalid_status = int(HTTPStatus.UNPROCESSABLE_ENTITY)

    def body(self, error: MongarsError) -> object:
        """The error's text and code, and its parameter or token counts if it has any."""
        return {"detail": str(error), "error": error.code, **error_facts(error)}

    def event(self, error: MongarsError) -> bytes:
        """An `error` event in OpenAI's format; no `[DONE]` follows it."""
        return _error_event(error)


class OpenAIErrors:
    """`{"error": {"message": …, "type": …, "param": …, "code": …}}`."""

    invalid_status = int(HTTPStatus.BAD_REQUEST)

    def body(self, error: MongarsError) -> object:
        """OpenAI's error object, with the message, type, parameter and code."""
        return openai_body(error)

    def event(self, error: MongarsError) -> bytes:
        """An `error` event with the same object; no `[DONE]` follows it."""
        return _error_event(error)


def _error_event(error: MongarsError) -> bytes:
    return encode_event(openai_body(error), name="error")


OWN_ERRORS = OwnErrors()
OPENAI_ERRORS = OpenAIErrors()
