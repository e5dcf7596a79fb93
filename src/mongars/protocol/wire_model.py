"""The base class of request bodies: how null, unknown and refused fields are handled."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from mongars.protocol.parameters import RefusedParameter, check_parameters


class WireModel(BaseModel):
    """Base class of request bodies and the objects in them: null fields are treated as absent, unknown ones ignored.

    Fields in `refused` are a validation error, because they request something that is not supported.

    A list of objects needs `fail_fast=True`: 100 kB of invalid objects would otherwise block the event loop for half a
    second, since pydantic makes an error of each.
    """

    model_config = ConfigDict(extra="ignore")

    refused: ClassVar[dict[str, RefusedParameter]] = {}

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: object) -> object:
        """Remove the fields that are null, before validation. Raises `ValueError` for a field that is refused."""
        if not isinstance(data, dict):
            return data
        if None in data.values():
            data = {name: value for name, value in data.items() if value is not None}
        if not cls.refused.keys().isdisjoint(data.keys()):
            check_parameters(data, cls.refused)
        return data
