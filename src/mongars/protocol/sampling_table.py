"""Sampling parameters: how a field of a request is called in `Sampling` and in the bodies for model servers.

The table itself is `protocol.sampling_fields`: each field there has its type, bounds and default, and
a `Parameter` with its other names. Reading a request and writing a body both follow that table.
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
"""What is written from a `Sampling`: the body of `/generate`, or the request to an engine."""

UNSET: dict[str, Any] = {each.name: each.default for each in dataclasses.fields(Sampling)}
"""The value of each field of `Sampling` that means: not set by the request."""


@dataclass(frozen=True, slots=True)
class WrittenByEngine:
    """A parameter that the engine's own module writes, because it takes more than another name."""

    how: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """What the table says about one field of a request, beside its type, bounds and default."""

    name: str
    """Its name in `Sampling`, and in every body for which `elsewhere` has no other."""
    elsewhere: Mapping[BodyFormat, str | WrittenByEngine | None] = dataclasses.field(
        default_factory=dict
    )
    """Its name in other bodies. None: that engine cannot do it, and a request with it is refused."""
    read: Callable[[Any], Any] | None = None
    """Converts a value of the request to that of `Sampling`."""
    write: Callable[[Any], Any] | None = None
    """Converts a value of `Sampling` to that of a body."""

    def place(self, body: BodyFormat) -> str | WrittenByEngine | None:
        """Its name in that body, or how it gets there; None if the engine cannot do it."""
        return self.elsewhere.get(body, self.name)


def parameters_of(model: type[BaseModel]) -> dict[str, Parameter]:
    """The fields of a wire model that have a `Parameter`."""
    return {
        field: entry
        for field, info in model.model_fields.items()
        for entry in info.metadata
        if isinstance(entry, Parameter)
    }


class SamplingReader:
    """Reads the fields of a wire model that are sampling parameters."""

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        """If two fields have the same name in `Sampling`, the later one counts."""
        self._fields = [(field, entry.name, entry.read) for field, entry in parameters.items()]

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that are set, under their names in `Sampling`."""
        found = {}
        for field, name, convert in self._fields:
            value = given.get(field)
            if value is not None:
                found[name] = value if convert is None else convert(value)
        return found


class SamplingWriter:
    """Writes a `Sampling` under the names of one body."""

    def __init__(self, body: BodyFormat, parameters: Mapping[str, Parameter]) -> None:
        entries = {entry.name: entry for entry in parameters.values()}
        placed = [(entry, entry.place(body)) for entry in entries.values()]
        written = [(entry, name) for entry, name in placed if isinstance(name, str)]
        self._values: attrgetter[tuple[Any, ...]] = attrgetter(*(e.name for e, _ in written))
        self._columns = [(name, UNSET[entry.name], entry.write) for entry, name in written]
        self._refused = [entry.name for entry, name in placed if name is None]
        self._body = body

    def write(self, sampling: Sampling) -> dict[str, Any]:
        """The parameters that are set. Raises `ParameterUnsupported` for one the engine cannot do."""
        for name in self._refused:
            if attrgetter(name)(sampling) != UNSET[name]:
                raise ParameterUnsupported.by(engine=self._body, param=name)
        found = {}
        # `strict=True` would double the time; the lengths are equal by construction.
        for (name, unset, convert), value in zip(
            self._columns, self._values(sampling), strict=False
        ):
            if value is not None and value != unset:
                found[name] = value if convert is None else convert(value)
        return found
