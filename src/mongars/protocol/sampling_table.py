"""Sampling parameters: the names of request fields in `Sampling` and in the request bodies for engines.

The table itself is in `protocol.sampling_fields`: each field there has its type, bounds and default, and
a `Parameter` with its other names. Reading a request and writing a body both use that table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from mongars.core.errors import ParameterUnsupported
from mongars.core.generation import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

BodyFormat = Literal["replica", "llama_cpp", "vllm", "ollama"]
"""The formats to which a `Sampling` is converted: the body of `/generate`, or the request to an engine."""

UNSET: dict[str, Any] = {each.name: each.default for each in dataclasses.fields(Sampling)}
"""For each field of `Sampling`, the value that means: not set by the request."""


@dataclass(frozen=True, slots=True)
class WrittenByEngine:
    """Marks a parameter that an engine's module writes, not `SamplingWriter`: it needs more than another name.

    `how`: a text on how it is written, for readers of the table.
    """

    how: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One sampling parameter: its name in `Sampling` and in each body format, and functions that convert its value.

    `elsewhere`: body formats with another name, or None if the engine does not support the parameter. `read` converts
    the request's value, `write` the one for a body; None: no conversion. It is attached, as `Annotated` metadata, to
    the field of a request model from which the parameter is read.
    """

    name: str
    """The parameter's name in `Sampling`, and in every body format that is not in `elsewhere`."""
    elsewhere: Mapping[BodyFormat, str | WrittenByEngine | None] = dataclasses.field(
        default_factory=dict
    )
    """The parameter's name in other body formats; None if the engine does not support it, so that it is refused."""
    read: Callable[[Any], Any] | None = None
    """Function that converts the request's value to the one in `Sampling`; None: no conversion."""
    write: Callable[[Any], Any] | None = None
    """Function that converts the value in `Sampling` to the one in a body; None: no conversion."""

    def place(self, body: BodyFormat) -> str | WrittenByEngine | None:
        """The parameter's name in request bodies of the format `body`; None if that engine does not support it.

        `body`: `replica` (the body of `/generate`), `llama_cpp`, `vllm` or `ollama`. The result is a `WrittenByEngine`
        if the engine's module, and not `SamplingWriter`, writes the parameter.
        """
        return self.elsewhere.get(body, self.name)


def parameters_of(model: type[BaseModel]) -> dict[str, Parameter]:
    """The fields of a request model that are annotated with a `Parameter`, by field name."""
    return {
        field: entry
        for field, info in model.model_fields.items()
        for entry in info.metadata
        if isinstance(entry, Parameter)
    }


class SamplingReader:
    """Reads the sampling parameters from the fields of one kind of request."""

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        """`parameters`: by field name. If two fields have the same name in `Sampling`, the later one overrides."""
        self._fields = [(field, entry.name, entry.read) for field, entry in parameters.items()]

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the fields that are set, converted, by their names in `Sampling`.

        `given`: the request's fields by name; None means not set.
        """
        found = {}
        for field, name, convert in self._fields:
            value = given.get(field)
            if value is not None:
                found[name] = value if convert is None else convert(value)
        return found


class SamplingWriter:
    """Converts a `Sampling` to the parameters of request bodies in one format.

    `body`: the format: `replica` (the body of `/generate`), `llama_cpp`, `vllm` or `ollama`. `parameters`: all
    sampling parameters, by the name of their field in the request model.
    """

    def __init__(self, body: BodyFormat, parameters: Mapping[str, Parameter]) -> None:
        entries = {entry.name: entry for entry in parameters.values()}
        placed = [(entry, entry.place(body)) for entry in entries.values()]
        written = [(entry, name) for entry, name in placed if isinstance(name, str)]
        self._values: attrgetter[tuple[Any, ...]] = attrgetter(*(e.name for e, _ in written))
        self._columns = [(name, UNSET[entry.name], entry.write) for entry, name in written]
        refused = [entry.name for entry, name in placed if name is None]
        self._refused = [(name, UNSET[name], attrgetter(name)) for name in refused]
        self._body = body

    def write(self, sampling: Sampling) -> dict[str, Any]:
        """The parameters that are set, by their names in the body, with their values converted.

        Those that the engine's own module writes into the body (marked `WrittenByEngine`) are left out. Raises
        `ParameterUnsupported` for a parameter that is set and that the engine does not support.
        """
        for param, unset, value_in in self._refused:
            if value_in(sampling) != unset:
                raise ParameterUnsupported.by(engine=self._body, param=param)
        found = {}
        # `strict=True` would double the time; the lengths are equal by construction.
        for (name, unset, convert), value in zip(
            self._columns, self._values(sampling), strict=False
        ):
            if value is not None and value != unset:
                found[name] = value if convert is None else convert(value)
        return found
