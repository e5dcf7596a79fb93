"""The sampling parameters, as fields of the requests of several protocols.

To add a parameter, add one field here and one in `core.generation.Sampling`. The `Parameter` of a field holds
its names in `Sampling` and in the request body for each engine, and which engine does not support it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mongars.core.generation import Sampling
from mongars.protocol.parameters import GENERATION_REFUSED, RefusedParameter
from mongars.protocol.response_format import check_response_format
from mongars.protocol.sampling_table import (
    BodyFormat,
    Parameter,
    SamplingReader,
    SamplingWriter,
    WrittenByEngine,
    parameters_of,
)
from mongars.protocol.wire_model import WireModel

MAX_TOKENS_LIMIT = 1_000_000
MOST_CHOICES = 128
MOST_BIASES = 1024

Token = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[dict[Token, Bias], Field(max_length=MOST_BIASES)]
Penalty = Annotated[float, Field(gt=0, le=10)]


def _one_or_more(value: object) -> object:
    """Return the value of the field `stop`, unchanged. Raises `ValueError` if it is neither a text nor a list of texts."""
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in entries):
        message = "must be a text or a list of texts"
        raise ValueError(message)
    return value


def _texts(stop: str | list[str]) -> tuple[str, ...]:
    return tuple(entry for entry in ([stop] if isinstance(stop, str) else stop) if entry)


def _few(value: object) -> object:
    """Return the value of the field `logit_bias`, unchanged. Raises `ValueError` for an object with too many entries.

    Pydantic would count them after it has validated each, and made an error of each.
    """
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        message = f"has {len(value)} entries; send at most {MOST_BIASES}"
        raise ValueError(message)
    return value


def token_limit(value: int) -> int | None:
    """A requested maximum number of tokens as it is in `Sampling`: None, that is no limit, for 0 and less.

    Some clients send those for no limit.
    """
    return value if value > 0 else None


def check_top_logprobs(wanted: int | None, *, logprobs: bool | None) -> None:
    """Raise `ValueError` if a request demands alternative tokens without log-probabilities.

    `wanted`: its field `top_logprobs`, the number of alternatives for each token; None or 0 for none. `logprobs`: its
    field of that name; None and False mean no log-probabilities.
    """
    if wanted and not logprobs:
        message = "top_logprobs: needs logprobs to be true"
        raise ValueError(message)


def _by_token_text(bias: tuple[tuple[int, float], ...]) -> dict[str, float]:
    return {str(token): value for token, value in bias}


_PENALTY_NAMES: dict[BodyFormat, str | WrittenByEngine | None] = {
    "llama_cpp": "repeat_penalty",
    "ollama": "repeat_penalty",
}
_BESIDE_OTHERS: dict[BodyFormat, str | WrittenByEngine | None] = {
    "llama_cpp": WrittenByEngine("top_logprobs is always sent beside logprobs, and at least 1"),
    "vllm": WrittenByEngine("logprobs is the number of alternatives"),
    "ollama": WrittenByEngine("beside the options; top_logprobs only if it is not 0"),
}
_ENFORCED: dict[BodyFormat, str | WrittenByEngine | None] = {
    "llama_cpp": WrittenByEngine("a grammar"),
    "vllm": WrittenByEngine("structured_outputs"),
    "ollama": WrittenByEngine("format"),
}
_ONE_BY_ONE = WrittenByEngine("one request for each choice (engines.choices)")


class DrawingFields(WireModel):
    """Sampling parameters that have the same names in all protocols: how each token is chosen, and stop sequences."""

    temperature: Annotated[float | None, Parameter("temperature")] = Field(
        default=None, ge=0.0, le=2.0
    )
    top_p: Annotated[float | None, Parameter("top_p")] = Field(default=None, gt=0.0, le=1.0)
    stop: Annotated[
        str | list[str] | None,
        BeforeValidator(_one_or_more, json_schema_input_type=str | list[str] | None),
        Parameter("stop", read=_texts, write=list),
    ] = None
    seed: Annotated[int | None, Parameter("seed")] = Field(default=None, ge=-(2**63), lt=2**63)
    presence_penalty: Annotated[float | None, Parameter("presence_penalty")] = Field(
        default=None, ge=-2.0, le=2.0
    )
    frequency_penalty: Annotated[float | None, Parameter("frequency_penalty")] = Field(
        default=None, ge=-2.0, le=2.0
    )
    repeat_penalty: Annotated[Penalty | None, Parameter("repetition_penalty", _PENALTY_NAMES)] = (
        None
    )
    top_k: Annotated[int | None, Parameter("top_k")] = Field(default=None, ge=-1, lt=2**31)
    min_p: Annotated[float | None, Parameter("min_p")] = Field(default=None, ge=0.0, le=1.0)


class SamplingFields(DrawingFields):
    """The sampling parameters in request bodies of OpenAI's protocols and of `/generate`."""

    refused: ClassVar[dict[str, RefusedParameter]] = GENERATION_REFUSED

    max_tokens: Annotated[
        int | None, Parameter("max_tokens", {"ollama": "num_predict"}, read=token_limit)
    ] = Field(default=None, ge=0, le=MAX_TOKENS_LIMIT)
    logprobs: Annotated[bool | None, Parameter("logprobs", _BESIDE_OTHERS)] = None
    top_logprobs: Annotated[int | None, Parameter("top_logprobs", _BESIDE_OTHERS)] = Field(
        default=None, ge=0, le=20
    )
    repetition_penalty: Annotated[
        Penalty | None, Parameter("repetition_penalty", _PENALTY_NAMES)
    ] = None
    """Another name of `repeat_penalty`, which it overrides if both are set."""
    logit_bias: Annotated[
        Biases | None,
        BeforeValidator(_few, json_schema_input_type=Biases | None),
        Parameter(
            "logit_bias",
            {"vllm": WrittenByEngine("token numbers are the keys"), "ollama": None},
            read=lambda bias: tuple(bias.items()),
            write=_by_token_text,
        ),
    ] = None
    response_format: Annotated[dict[str, Any] | None, Parameter("response_format", _ENFORCED)] = (
        None
    )
    n: Annotated[
        int | None,
        Parameter("n", {"llama_cpp": _ONE_BY_ONE, "vllm": _ONE_BY_ONE, "ollama": _ONE_BY_ONE}),
    ] = Field(default=None, ge=1, le=MOST_CHOICES)

    @field_validator("response_format")
    @classmethod
    def _usable(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            check_response_format(value)
        return value

    @model_validator(mode="after")
    def _rated(self) -> Self:
        check_top_logprobs(self.top_logprobs, logprobs=self.logprobs)
        return self

    def to_sampling(self, *, max_tokens: int | None = None) -> Sampling:
        """The sampling parameters of this request as a `Sampling`.

        `max_tokens`: used instead of the field of that name, 0 for no limit; None: the field is used.
        """
        found = READER.read(self.__dict__)
        if max_tokens is not None:
            found["max_tokens"] = token_limit(max_tokens)
        return Sampling(**found)


PARAMETERS = parameters_of(SamplingFields)
"""All sampling parameters, by their field names in OpenAI's protocols and on `/generate`."""
READER = SamplingReader(PARAMETERS)


def sampling_writer(body: BodyFormat) -> SamplingWriter:
    """A writer that converts a `Sampling` to the parameters of request bodies in one format.

    `body`: `replica` (the body of `/generate`), or the engine: `llama_cpp`, `vllm` or `ollama`.
    """
    return SamplingWriter(body, PARAMETERS)
