"""Requests for embeddings in OpenAI's and Ollama's formats, and the vectors in their responses.

Inside this program a vector is the bytes of its float32 numbers, little-endian: the form that OpenAI's clients
request as `base64`, and much cheaper to process than lists of numbers.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field

from mongars.core.errors import InvalidAnswer, InvalidRequest
from mongars.core.fair_queue import LEAST_WEIGHT, MOST_WEIGHT
from mongars.protocol.parameters import (
    EMBEDDINGS_REFUSED,
    OLLAMA_EMBEDDINGS_REFUSED,
    RefusedParameter,
)
from mongars.protocol.problems import read_count
from mongars.protocol.wire_model import WireModel

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_TEXTS = 2048
FLOAT_BYTES = 4
EncodingFormat = Literal["float", "base64"]


def _texts_only(value: object) -> object:
    """Return the value of the field `input`, unchanged. Raises `ValueError` if it is neither a text nor a list of texts."""
    entries = value if isinstance(value, list) else [value]
    if all(isinstance(entry, str) for entry in entries):
        return value
    if all(map(_is_tokens, entries)):
        message = "holds token numbers, which are those of one tokenizer; send the text itself"
    elif isinstance(value, list) and any(isinstance(entry, list) for entry in entries):
        message = "must be a text or a list of texts; it holds a list inside the list"
    else:
        message = "must be a text or a list of texts"
    raise ValueError(message)


def _is_tokens(entry: object) -> bool:
    """Whether `entry` of the field `input` is a token number, or a list of them."""
    numbers = entry if isinstance(entry, list) and entry else [entry]
    return all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)


def _not_empty(value: str | list[str]) -> str | list[str]:
    texts = [value] if isinstance(value, str) else value
    if not texts or not all(text.strip() for text in texts):
        message = "holds no text, or an empty one"
        raise ValueError(message)
    if len(texts) > MOST_TEXTS:
        message = f"holds {len(texts)} texts; at most {MOST_TEXTS} are read at once"
        raise ValueError(message)
    return value


Texts = Annotated[
    str | list[str],
    BeforeValidator(_texts_only, json_schema_input_type=str | list[str]),
    AfterValidator(_not_empty),
]
"""A text or a list of texts; token ids are refused, since they depend on a tokenizer that is not named."""


class EmbeddingRequest(WireModel):
    """The body of `POST /v1/embeddings` in OpenAI's format. An empty `model` means the configured embedding model."""

    refused: ClassVar[dict[str, RefusedParameter]] = EMBEDDINGS_REFUSED

    input: Texts
    model: str = ""
    encoding_format: EncodingFormat = "float"
    dimensions: int | None = Field(default=None, ge=1)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to embed as a tuple, whether the field `input` is a string or a list."""
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)


class ReplicaEmbeddingRequest(EmbeddingRequest):
    """The body of `POST /v1/embeddings` on a Ray Serve replica, to which the API sends it.

    Additional fields: `cache_salt` (identifies the account without its name) and `weight` (the account's share while
    requests queue, relative to an account of weight 1).
    """

    cache_salt: str | None = Field(default=None, max_length=200)
    """An opaque identifier of the account, by which the engine's time is shared fairly."""
    weight: float | None = Field(default=None, ge=LEAST_WEIGHT, le=MOST_WEIGHT)
    """The account's share of the engine while requests wait, relative to an account of weight 1."""


class OllamaEmbedRequest(WireModel):
    """The body of Ollama's `POST /api/embed`. Its fields `options`, `keep_alive` and `truncate` are ignored."""

    refused: ClassVar[dict[str, RefusedParameter]] = OLLAMA_EMBEDDINGS_REFUSED

    input: Texts
    model: str = ""
    dimensions: int | None = Field(default=None, ge=1)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to embed as a tuple, whether the field `input` is a string or a list."""
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)


class OllamaEmbeddingsRequest(WireModel):
    """The body of Ollama's older `POST /api/embeddings`, with one text in `prompt`."""

    refused: ClassVar[dict[str, RefusedParameter]] = OLLAMA_EMBEDDINGS_REFUSED

    prompt: Annotated[str, AfterValidator(_not_empty)]
    model: str = ""
    dimensions: None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text in the field `prompt`, as a tuple with one element."""
        return (self.prompt,)


def pack(vector: Sequence[float]) -> bytes:
    """Encode a vector as float32 numbers, little-endian, 4 bytes each.

    Raises `OverflowError` for a number too large for float32, or `struct.error` for a value that is no number.
    """
    return struct.pack(f"<{len(vector)}f", *vector)


def unpack(vector: bytes) -> tuple[float, ...]:
    """Decode the numbers of a vector that is packed as float32, little-endian, 4 bytes each.

    Raises `struct.error` if the length of `vector` is not a multiple of 4 bytes.
    """
    return struct.unpack(f"<{len(vector) // FLOAT_BYTES}f", vector)


def request_body(
    texts: Sequence[str], *, model: str, cache_salt: str | None, weight: float
) -> dict[str, Any]:
    """The JSON body of a replica's `POST /v1/embeddings` for the vectors of `texts`, in the format `base64`.

    Keys: `input`, `model`, `encoding_format`, and `cache_salt` and `weight` where given. `cache_salt`: identifies the
    account without its name, None without an account. `weight`: the account's share while requests queue, relative to
    an account of weight 1, which is left out.
    """
    body: dict[str, Any] = {"input": list(texts), "model": model, "encoding_format": "base64"}
    if cache_salt is not None:
        body["cache_salt"] = cache_salt
    if weight != 1:
        body["weight"] = weight
    return body


def read_embeddings(body: dict[str, Any], *, count: int) -> tuple[tuple[bytes, ...], int, str]:
    """What the response `body` to a request for `count` vectors contains: packed vectors, prompt tokens, model name.

    `body`: decoded JSON in OpenAI's format, with vectors as base64 text or lists of numbers. The result has them in
    the order of the texts, each packed as float32, little-endian. Raises `InvalidAnswer` unless there is one vector
    for each text, all of the same length and with finite numbers.
    """
    try:
        entries = in_order(body["data"], count=count)
        vectors = tuple(_packed(entry["embedding"]) for entry in entries)
        tokens = read_count(body["usage"]["prompt_tokens"])
        model = str(body["model"])
    except (KeyError, TypeError, ValueError, OverflowError, struct.error) as exc:
        detail = "The response does not contain embeddings in OpenAI's format."
        raise InvalidAnswer(detail) from exc
    if len({len(vector) for vector in vectors}) != 1:
        detail = "The response contains vectors of different lengths."
        raise InvalidAnswer(detail)
    return vectors, tokens, model


def in_order(data: Sequence[dict[str, Any]], *, count: int) -> list[dict[str, Any]]:
    """The entries of `data`, the decoded `data` of a response with `count` vectors, in the order of the texts.

    Raises `ValueError` unless the values of `index` are the numbers from 0 to `count` - 1, each once; `TypeError` or
    `KeyError` if `data` does not have the shape of such a list.
    """
    entries = {entry["index"]: entry for entry in data}
    if len(data) != count or entries.keys() != set(range(count)):
        message = f"the indexes are not those of {count} texts"
        raise ValueError(message)
    return [entries[index] for index in range(count)]


def _packed(found: object) -> bytes:
    if isinstance(found, str):
        try:
            vector = base64.b64decode(found, validate=True)
        except binascii.Error as exc:
            raise ValueError(str(exc)) from exc
    elif isinstance(found, list):
        vector = pack(found)
    else:
        vector = b""
    if not vector or not all(map(math.isfinite, unpack(vector))):
        message = "no vector, or one with infinite values"
        raise ValueError(message)
    return vector


def written_entry(index: int, vector: bytes, *, encoding_format: EncodingFormat) -> orjson.Fragment:
    """The entry of `data` for the vector of text number `index` (from 0), as a fragment of encoded JSON.

    `vector`: packed as float32, little-endian. `encoding_format`: `base64` for base64 text, `float` for a list of
    numbers.
    """
    packed = encoding_format == "base64"
    embedding = base64.b64encode(vector).decode("ascii") if packed else unpack(vector)
    return orjson.Fragment(
        orjson.dumps({"object": "embedding", "index": index, "embedding": embedding})
    )


def response_body(data: Sequence[object], *, model: str, prompt_tokens: int) -> dict[str, Any]:
    """The JSON body of a response of `/v1/embeddings` in OpenAI's format.

    Keys: `object`, `data`, `model` and `usage` (`prompt_tokens` and `total_tokens`). `data`: OpenAI's `embedding`
    objects, one per text in order, as dictionaries or fragments of encoded JSON.
    """
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def check_dimensions(wanted: int | None, *, found: int, model: str) -> None:
    """Raise `InvalidRequest` if the client demands vectors of another length than the model's.

    `wanted`: the number of dimensions demanded, None for any. `found`: that of the model.
    """
    if wanted not in {None, found}:
        detail = f"dimensions: {model} gives {found}, not {wanted}."
        raise InvalidRequest(detail, param="dimensions")


def embeddings_body(
    vectors: Sequence[Sequence[float]],
    *,
    request: EmbeddingRequest,
    model: str,
    prompt_tokens: int,
) -> dict[str, Any]:
    """The JSON body of a replica's response, with one entry for each of `vectors`, of which there is at least one.

    Keys: `object`, `data` (the entries), `model` and `usage`. `request.encoding_format` decides whether vectors are
    written as lists or base64 text. Raises `InvalidRequest` if `request.dimensions` is set and not the length of the
    vectors.
    """
    check_dimensions(request.dimensions, found=len(vectors[0]), model=model)
    encode = _base64 if request.encoding_format == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(vectors)
    ]
    return response_body(data, model=model, prompt_tokens=prompt_tokens)


def _base64(vector: Sequence[float]) -> str:
    """The vector as base64 text of its packed float32 numbers, the form that OpenAI's clients read."""
    return base64.b64encode(pack(vector)).decode("ascii")
