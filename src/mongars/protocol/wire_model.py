"""The base of every request model: what holds for each field of each of them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from mongars.protocol.parameters import RefusedParameter, check_parameters


class WireModel(BaseModel):
    """An object in a request. Null means that a field was left out; unknown fields are ignored.

    `refused` are the fields that raise an error instead, because what they demand is not supported.
    """

    model_config = ConfigDict(extra="ignore")

    refused: ClassVar[dict[str, RefusedParameter]] = {}

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: object) -> object:
        """The fields that are not null. Raises `ValueError` for one that is refused."""
        if not isinstance(data, dict):
            return data
        if None in data.values():
            data = {name: value for name, value in data.items() if value is not None}
        if not cls.refused.keys().isdisjoint(data.keys()):
            check_parameters(data, cls.refused)
        return data
