"""The format of errors of requests that the HTTP server refuses before the application receives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.api.error_formats import OPENAI_ERRORS, OWN_ERRORS
from mongars.api.error_responses import format_for
from mongars.api.ollama_dialect import OLLAMA_ERRORS

if TYPE_CHECKING:
    from mongars.core.errors import MongarsError

FORMATS = (("/api/v1", OWN_ERRORS), ("/api", OLLAMA_ERRORS), ("/v1", OPENAI_ERRORS))
"""The prefixes of paths with an error format of their own, the longest first, as in the route tables."""


def refused_body(path: str, error: MongarsError) -> object:
    """The JSON body of the response to a refused request for `path`, in the error format of the path.

    If the path is not known (empty), the format is OpenAI's.
    """
    errors = format_for(path, FORMATS) if path else OPENAI_ERRORS
    return errors.body(error)
