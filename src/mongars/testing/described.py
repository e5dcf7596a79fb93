"""Reading and writing the faults of `testing.faults` as JSON: `{"kind": "answer", "cut_after": 40}`."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING

import orjson
from pydantic import TypeAdapter, ValidationError

from mongars.protocol.body import invalid_request
from mongars.testing.faults import Fault

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_FAULT: TypeAdapter[Fault] = TypeAdapter(Fault)
_FAULTS: TypeAdapter[list[Fault]] = TypeAdapter(list[Fault])


def read_fault(data: bytes | str) -> Fault:
    """Parse one fault (a class of `testing.faults`) from a JSON object with its `kind` and its fields.

    For example `{"kind": "answer", "cut_after": 40}`; fields that are left out have their defaults. Raises
    `InvalidRequest`, naming the invalid fields.
    """
    try:
        return _FAULT.validate_json(data)
    except ValidationError as exc:
        raise invalid_request(exc, _decoded(data)) from exc


def read_faults(data: bytes) -> list[Fault]:
    """Parse one fault, a JSON object such as `{"kind": "answer", "cut_after": 40}`, or a JSON list of them.

    Raises `InvalidRequest`, naming the invalid fields.
    """
    if not data.lstrip().startswith(b"["):
        return [read_fault(data)]
    try:
        return _FAULTS.validate_json(data)
    except ValidationError as exc:
        raise invalid_request(exc, _decoded(data)) from exc


def _decoded(data: bytes | str) -> object:
    """The JSON value that `data` encodes; None if it is not valid JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def described(fault: Fault) -> dict[str, object]:
    """A fault as a JSON object: its `kind`, and those of its fields that differ from their defaults."""
    return _unusual(fault)


def _unusual(fault: DataclassInstance) -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in fields(fault):
        value = getattr(fault, entry.name)
        usual = entry.default
        if entry.default_factory is not MISSING:
            usual = entry.default_factory()
        if value != usual or entry.name == "kind":
            found[entry.name] = _plain(value)
    return found


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _unusual(value)
    return value
