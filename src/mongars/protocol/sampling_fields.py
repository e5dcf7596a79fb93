"""The sampling parameters that requests of several dialects share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from mongars.core.generation import Sampling
from mongars.protocol.parameters import GENERATION_REFUSED, RefusedParameter
from mongars.protocol.response_format import check_response_format
from mongars.protocol.wire_model import WireModel

MAX_TOKENS_LIMIT = 1_000_000
MOST_CHOICES = 128
MOST_BIASES = 1024

Token = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(gt=0, le=10)]


class DrawingFields(WireModel):
    """The parameters that have the same names in every dialect: how a token is sampled, where an answer stops."""

    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    repeat_penalty: Penalty | None = None
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)

    def drawing(self) -> dict[str, Any]:
        """The values of these parameters, keyed by their names in `Sampling`."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": tuple(entry for entry in stop if entry),
            "seed": self.seed,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repeat_penalty,
            "top_k": self.top_k,
            "min_p": self.min_p,
        }


class SamplingFields(DrawingFields):
    """The parameters of OpenAI's dialects and of `/generate`."""

    refused: ClassVar[dict[str, RefusedParameter]] = GENERATION_REFUSED

    max_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS_LIMIT)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    repetition_penalty: Penalty | None = None
    """Another name of `repeat_penalty`; takes precedence if both are given."""
    logit_bias: dict[Token, Bias] | None = Field(default=None, max_length=MOST_BIASES)
    response_format: dict[str, Any] | None = None
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)

    @field_validator("response_format")
    @classmethod
    def _usable(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            check_response_format(value)
        return value

    @model_validator(mode="after")
    def _rated(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            message = "top_logprobs: needs logprobs to be true"
            raise ValueError(message)
        return self

    def to_sampling(self, *, max_tokens: int | None = None) -> Sampling:
        """The parameters as a `Sampling`. A limit of 0 tokens means unset, as some clients of `/generate` send it."""
        found = self.drawing()
        if self.repetition_penalty is not None:
            found["repetition_penalty"] = self.repetition_penalty
        return Sampling(
            **found,
            max_tokens=(max_tokens or self.max_tokens) or None,
            logprobs=bool(self.logprobs),
            top_logprobs=self.top_logprobs,
            logit_bias=tuple(self.logit_bias.items()) if self.logit_bias else (),
            response_format=self.response_format,
            n=self.n or 1,
        )
