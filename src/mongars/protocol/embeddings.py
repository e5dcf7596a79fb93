"""The OpenAI dialect of embeddings: `POST /v1/embeddings`."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from mongars.core.errors import InvalidRequest
from mongars.protocol.parameters import EMBEDDINGS_REFUSED, RefusedParameter
from mongars.protocol.wire_model import WireModel

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_TEXTS = 2048


class EmbeddingRequest(WireModel):
    """A text or a list of texts; token ids are not understood, since they name no tokenizer."""

    refused: ClassVar[dict[str, RefusedParameter]] = EMBEDDINGS_REFUSED

    input: str | list[str]
    model: str = Field(min_length=1)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)

    @field_validator("input", mode="before")
    @classmethod
    def _texts_only(cls, value: object) -> object:
        entries = value if isinstance(value, list) else [value]
        if entries and all(isinstance(entry, int | list) for entry in entries):
            message = "holds token numbers, which are those of one tokenizer; send the text itself"
            raise ValueError(message)
        return value

    @field_validator("input")
    @classmethod
    def _some(cls, value: str | list[str]) -> str | list[str]:
        texts = [value] if isinstance(value, str) else value
        if not texts or not all(text.strip() for text in texts):
            message = "holds no text, or an empty one"
            raise ValueError(message)
        if len(texts) > MOST_TEXTS:
            message = f"holds {len(texts)} texts; at most {MOST_TEXTS} are read at once"
            raise ValueError(message)
        return value

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, whichever form they came in."""
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)


def embeddings_body(
    vectors: Sequence[Sequence[float]],
    *,
    request: EmbeddingRequest,
    model: str,
    prompt_tokens: int,
) -> dict[str, Any]:
    """The response. Raises `InvalidRequest` where the request demands other dimensions than the model's."""
    found = len(vectors[0])
    if request.dimensions not in {None, found}:
        detail = f"dimensions: {model} gives {found}, not {request.dimensions}."
        raise InvalidRequest(detail, param="dimensions")
    encode = _base64 if request.encoding_format == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _base64(vector: Sequence[float]) -> str:
    """Little-endian float32, as OpenAI's own client reads it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
