"""Convert error responses of llama.cpp to `MongarsError`s."""

from __future__ import annotations

import contextlib
from http import HTTPStatus

import aiohttp
import orjson

from mongars.core.errors import (
    ContextLengthExceeded,
    InferenceFailed,
    InvalidRequest,
    MongarsError,
    NotReady,
)
from mongars.protocol.problems import count_or_0

RETRY_AFTER = 1.0


async def refusal_of(response: aiohttp.ClientResponse) -> MongarsError:
    """Convert a response of llama.cpp with an error status to an error to raise.

    `ContextLengthExceeded` for a prompt that is too long, `NotReady` for status 503, `InvalidRequest` for 400 and 422,
    else `InferenceFailed`. Reads the response's body; the message is llama.cpp's.
    """
    error: dict[str, object] = {}
    with contextlib.suppress(orjson.JSONDecodeError, aiohttp.ClientError):
        body = orjson.loads(await response.read())
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            error = body["error"]
    message = str(error.get("message") or f"The engine answered {response.status}.")
    if error.get("type") == "exceed_context_size_error":
        return ContextLengthExceeded(
            prompt_tokens=count_or_0(error.get("n_prompt_tokens")),
            context_tokens=count_or_0(error.get("n_ctx")),
        )
    if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return NotReady(message, retry_after=RETRY_AFTER)
    if response.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}:
        return InvalidRequest(message)
    return InferenceFailed(message)
