"""The error formats of monGARS' own routes and of OpenAI's."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from mongars.protocol.problems import error_facts, openai_body
from mongars.protocol.sse import encode_event

if TYPE_CHECKING:
    from mongars.core.errors import MongarsError


class OwnErrors:
    """The error format of all routes but OpenAI's and Ollama's: `{"detail": text, "error": code}`.

    The HTTP status of an invalid request is 422.
    """

    invalid_status = int(HTTPStatus.UNPROCESSABLE_ENTITY)

    def body(self, error: MongarsError) -> object:
        """The JSON object with the error's text (`detail`) and code (`error`).

        If the error has them, also the name of the invalid parameter (`param`), or the numbers of tokens of a prompt
        that is too long and of the context window (`prompt_tokens`, `context_tokens`).
        """
        return {"detail": str(error), "error": error.code, **error_facts(error)}

    def event(self, error: MongarsError) -> bytes:
        """The last bytes of a failed stream: a server-sent event named `error`, without `[DONE]` after it.

        Its data is OpenAI's JSON object, `{"error": {"message": …, "type": …, "param": …, "code": …}}`.
        """
        return _error_event(error)


class OpenAIErrors:
    """OpenAI's error format: `{"error": {"message": …, "type": …, "param": …, "code": …}}`.

    The HTTP status of an invalid request is 400.
    """

    invalid_status = int(HTTPStatus.BAD_REQUEST)

    def body(self, error: MongarsError) -> object:
        """The error as OpenAI's JSON object, with message, type, parameter and code."""
        return openai_body(error)

    def event(self, error: MongarsError) -> bytes:
        """The last bytes of a failed stream: a server-sent event named `error`, without `[DONE]` after it.

        Its data is OpenAI's JSON object, `{"error": {"message": …, "type": …, "param": …, "code": …}}`.
        """
        return _error_event(error)


def _error_event(error: MongarsError) -> bytes:
    return encode_event(openai_body(error), name="error")


OWN_ERRORS = OwnErrors()
OPENAI_ERRORS = OpenAIErrors()
