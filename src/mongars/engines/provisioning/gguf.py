"""The head of a GGUF file: enough to refuse what no engine could load, and what it says of itself."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from mongars.core.errors import ProvisioningFailed

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

Found = str | bool | int | float | list["Found"]
"""A value of the head."""

_HEADER = struct.Struct("<4sIQQ")  # magic, version, tensor count, metadata count
_VERSIONS = (2, 3)
_SCALARS = {
    kind: struct.Struct(f"<{code}")
    for kind, code in {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}.items()
} | {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}
_STRING, _ARRAY = 8, 9


def check_gguf(path: Path) -> None:
    """Raise `ProvisioningFailed`, saying what is wrong, unless the file begins as GGUF does."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
    except FileNotFoundError as error:
        msg = f"There is no file {str(path)!r}. Give the full path of a GGUF model."
        raise ProvisioningFailed(msg) from error
    except OSError as error:
        msg = f"Cannot read {str(path)!r}: {error.strerror}. Check its permissions."
        raise ProvisioningFailed(msg) from error
    if len(head) < _HEADER.size or not head.startswith(b"GGUF"):
        msg = f"{str(path)!r} is not a GGUF model (its first bytes are {head[:4]!r})."
        raise ProvisioningFailed(msg)
    _, version, tensors, _ = _HEADER.unpack(head)
    if version not in _VERSIONS or tensors == 0:
        msg = (
            f"{str(path)!r} is GGUF version {version} with {tensors} tensors; version 2 or 3 with"
            " at least one tensor is needed. An adapter or a damaged download looks like this."
        )
        raise ProvisioningFailed(msg)


def gguf_values(path: Path) -> dict[str, Found]:
    """What the file says of its model and tokenizer; a large vocabulary takes tenths of a second.

    Raises:
        ProvisioningFailed: it is no readable GGUF file.
    """
    check_gguf(path)
    try:
        with path.open("rb") as file:
            _, _, _, count = _HEADER.unpack(file.read(_HEADER.size))
            return {_text(file): _value(file, _number(file, 4)) for _ in range(count)}
    except (OSError, struct.error, ValueError, KeyError) as error:
        msg = f"The head of {str(path)!r} is damaged ({error}). Fetch the model again."
        raise ProvisioningFailed(msg) from error


def _value(file: IO[bytes], kind: int) -> Found:
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        inner, count = _number(file, 4), _number(file, 10)
        return [_value(file, inner) for _ in range(count)]
    return _scalar(file, kind)


def _text(file: IO[bytes]) -> str:
    return file.read(_number(file, 10)).decode("utf-8", "replace")


def _number(file: IO[bytes], kind: int) -> int:
    return int(_scalar(file, kind))


def _scalar(file: IO[bytes], kind: int) -> int | float:
    form = _SCALARS[kind]
    value: int | float = form.unpack(file.read(form.size))[0]
    return value
