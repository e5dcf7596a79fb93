"""Request bodies: read up to a size limit and parsed into a pydantic model, with errors that name the field."""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from mongars.core.errors import EncodingUnsupported, InvalidAnswer, InvalidRequest, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)

BODY_SECONDS = 10.0
"""Time limit in seconds for a client to send the whole request body."""


async def read_limited(
    blocks: AsyncIterator[bytes],
    *,
    declared: str | None,
    encoding: str | None,
    limit: int,
    seconds: float = BODY_SECONDS,
) -> bytes:
    """Read and return the whole request body, of at most `limit` bytes.

    `blocks`: the parts of the body as they arrive. `declared`: its `Content-Length`, `encoding`: its
    `Content-Encoding`; None without the header. Raises `EncodingUnsupported` for a compressed body, since a few
    compressed bytes can expand to gigabytes; `TooLarge` as soon as the body is known to exceed `limit` bytes, without
    reading the rest; and `InvalidRequest` if it does not arrive within `seconds`, since a slow client occupies a
    connection.
    """
    if encoding is not None and encoding.strip().lower() not in {"", "identity"}:
        detail = (
            f"Content-Encoding {encoding[:40]!r} is not supported; send the body uncompressed"
            " (identity)."
        )
        raise EncodingUnsupported(detail)
    try:
        async with asyncio.timeout(seconds):
            return await _read(blocks, declared=declared, limit=limit)
    except TimeoutError as exc:
        detail = f"The request body did not arrive within {seconds:g} s."
        raise InvalidRequest(detail) from exc


async def _read(blocks: AsyncIterator[bytes], *, declared: str | None, limit: int) -> bytes:
    detail = f"The request body is larger than {limit} bytes."
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise TooLarge(detail)
    body = bytearray()
    async for block in blocks:
        body += block
        if len(body) > limit:
            raise TooLarge(detail)
    return bytes(body)


def parse_model(raw: bytes, model: type[Model]) -> Model:
    """Parse a JSON request body as `model`.

    Raises `InvalidRequest` if it is not a JSON object, or as `invalid_request` writes it if fields are invalid.
    """
    try:
        payload = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        detail = f"Unable to parse JSON payload: {exc}."
        raise InvalidRequest(detail) from exc
    if not isinstance(payload, dict):
        detail = "Request payload must be an object."
        raise InvalidRequest(detail)
    try:
        return model.model_validate(payload)
    except ValidationError as exc:
        raise invalid_request(exc, payload) from exc


def encode(body: object) -> bytes:
    """Encode the body of a request to a model server as JSON.

    Raises `InvalidRequest` if JSON cannot express it, for example because it is nested too deeply.
    """
    try:
        return orjson.dumps(body)
    except TypeError as exc:
        detail = f"The request cannot be passed on: {exc}."
        raise InvalidRequest(detail) from exc


_WORDS = {
    "dict_type": "Input should be an object",
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "none_required": "Input should be null",
}
"""Messages in place of pydantic's that name Python classes, by the type of the error."""


MOST_DESCRIBED = 10
"""Maximum number of validation errors that an error message describes; it has the number of the others."""
LONGEST_REASON = 500
"""Maximum length in characters of the text of one validation error, which may quote a value."""
LONGEST_KEY = 100
"""Maximum length in characters of a key in the path of an invalid field."""


def invalid_request(error: ValidationError, payload: object) -> InvalidRequest:
    """The `InvalidRequest` for a validation error of `payload`; its length is bounded, whatever `payload` holds.

    The message has the paths of the first 10 invalid fields, why each is invalid, and the number of further errors.
    `param` is the path of the first invalid field in OpenAI's notation, such as `messages[0].content`. For a rule about
    several fields, it is the name before the first colon of the error message, as in `top_logprobs: needs ...`; None if
    there is no such name.
    """
    entries = error.errors(include_url=False, include_context=False, include_input=False)
    parts = list(dict.fromkeys(_described(entry, payload) for entry in entries[:MOST_DESCRIBED]))
    if len(entries) > MOST_DESCRIBED:
        parts.append(f"and {len(entries) - MOST_DESCRIBED} more errors")
    return InvalidRequest("; ".join(parts) + ".", param=_param(entries[0], payload))


def _described(entry: ErrorDetails, payload: object) -> str:
    where = ".".join(map(str, _path(entry, payload)))
    reason = _WORDS.get(entry["type"], str(entry["msg"]).removeprefix("Value error, "))
    if entry["loc"][-1:] == (_KEY,):
        reason = f"this key is invalid: {reason}"
    reason = _shortened(reason, LONGEST_REASON)
    return f"{where}: {reason}" if where else reason


def _param(first: ErrorDetails, payload: object) -> str | None:
    if not first["loc"]:  # a rule about several fields, whose message begins with one
        name = str(first["msg"]).removeprefix("Value error, ").partition(":")[0]
        return name if name.isidentifier() else None
    path = _path(first, payload)
    written = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return written.removeprefix(".")


_KEY = "[key]"
"""Pydantic's last part of the path of an invalid key of an object; the key stands before it."""


def _path(entry: ErrorDetails, payload: object) -> list[int | str]:
    """The path of an invalid field in `payload`: keys and indexes, without the parts that pydantic adds.

    Those are the names of types of which one would have to fit. A missing field is the last part of its path. Long
    keys are shortened.
    """
    found: list[int | str] = []
    value: Any = payload
    for part in entry["loc"]:
        if _has(value, part):
            value = value[part]
        elif entry["type"] != "missing" or part != entry["loc"][-1]:
            continue
        found.append(_shortened(part, LONGEST_KEY) if isinstance(part, str) else part)
    return found


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _has(value: object, part: int | str) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def json_object(data: bytes) -> dict[str, Any]:
    """Parse the body of a server's response as a JSON object. Raises `InvalidAnswer` if it is not one."""
    try:
        body = orjson.loads(data.removeprefix(BOM_UTF8))
    except orjson.JSONDecodeError as exc:
        detail = "The answer is not JSON."
        raise InvalidAnswer(detail) from exc
    if not isinstance(body, dict):
        detail = "The answer is not a JSON object."
        raise InvalidAnswer(detail)
    return body
