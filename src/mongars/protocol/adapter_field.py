"""The field `adapter` of requests: the LoRA adapter that must generate the answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from mongars.core.adapter_pin import AdapterPin
from mongars.protocol.wire_model import WireModel

LONGEST_ADAPTER_NAME = 256
"""Maximum number of characters of a demanded adapter's version or digest."""


def _fields_of(value: object) -> object:
    """The value of the field `adapter` as an object: `NAME`, `NAME@DIGEST` or `@DIGEST` becomes `version` and `digest`.

    An object is returned unchanged. Raises `ValueError` for any other value.
    """
    if isinstance(value, str):
        pin = AdapterPin.parse(value)
        return {"version": pin.name, "digest": pin.digest}
    if isinstance(value, dict):
        return value
    message = (
        "must be a text such as NAME or NAME@DIGEST, or an object with version, digest or both"
    )
    raise ValueError(message)


class AdapterNames(WireModel):
    """The names of an adapter: its version (or an alias of it), its digest, or both."""

    version: str | None = Field(default=None, max_length=LONGEST_ADAPTER_NAME)
    digest: str | None = Field(default=None, max_length=LONGEST_ADAPTER_NAME)

    @model_validator(mode="before")
    @classmethod
    def _has_a_known_field(cls, data: object) -> object:
        """Return `data` unchanged. Raises `ValueError` for an object with unknown fields only: a demand is not ignored.

        An empty object, and fields that are null, demand nothing.
        """
        given = {n for n, v in data.items() if v is not None} if isinstance(data, dict) else set()
        if given and not given & set(cls.model_fields):
            message = "must name the adapter by version, digest or both"
            raise ValueError(message)
        return data

    def pin(self) -> str | None:
        """The adapter named, in the form of `GenerationRequest.adapter`: `version`, `version@digest` or `@digest`.

        The words stand for the values of these fields. None, which means any adapter, if neither field is set.
        """
        if self.digest is None:
            return self.version
        return str(AdapterPin(name=self.version, digest=self.digest))


class AdapterDemand(AdapterNames):
    """The field `adapter` of a request to the API: the adapter that must generate the answer."""


class AdapterPayload(AdapterNames):
    """The field `adapter` of a request to `/generate`.

    An object with `adapter_path` demands nothing: the earlier monGARS client sends an entry of its own adapter registry
    with every request, and accepts an answer from any adapter. The path is never opened.
    """

    adapter_path: str | None = None

    def pin(self) -> str | None:
        """The adapter demanded, as `AdapterNames.pin` writes it; None if `adapter_path` is set, even beside the others."""
        return super().pin() if self.adapter_path is None else None


class DemandsAdapter(WireModel):
    """Base class of the request bodies of the API that are answered by a model: the field `adapter`.

    It is an object, or the text `NAME`, `NAME@DIGEST` or `@DIGEST`; None: any adapter may answer.
    """

    adapter: Annotated[
        AdapterDemand | None,
        BeforeValidator(_fields_of, json_schema_input_type=str | AdapterDemand | None),
    ] = None


GenerateAdapterField = Annotated[
    AdapterPayload, BeforeValidator(_fields_of, json_schema_input_type=str | AdapterPayload)
]
"""The field `adapter` of `/generate`: an object, or the text `NAME`, `NAME@DIGEST` or `@DIGEST`."""


def pin_of(adapter: AdapterNames | None) -> str | None:
    """The adapter that the field `adapter` demands, in the form of `GenerationRequest.adapter`; None if it is absent."""
    return None if adapter is None else adapter.pin()
