"""Read the header of a GGUF file: check its validity, and return its metadata."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from mongars.core.errors import ProvisioningFailed

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

Found = str | bool | int | float | list["Found"]
"""A metadata value in the header of a GGUF file."""

_HEADER = struct.Struct("<4sIQQ")  # magic, version, tensor count, metadata count
_VERSIONS = (2, 3)
_SCALARS = {
    kind: struct.Struct(f"<{code}")
    for kind, code in {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}.items()
} | {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}
_STRING, _ARRAY = 8, 9


def check_gguf(path: Path) -> None:
    """Check that a file begins with a valid GGUF header. Raises `ProvisioningFailed` with the reason if not."""
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
    """Read the metadata of a GGUF file: key, such as `general.architecture`, to value.

    A value is a text, a boolean, a number or a list of such values. Contains the vocabulary, so it takes tenths of a
    second for a large one. Does not read the tensors.

    Raises `ProvisioningFailed` if the file is not a readable GGUF file, or its header is damaged.
    """
    check_gguf(path)
    try:
        with path.open("rb") as file:
            _, _, _, count = _HEADER.unpack(file.read(_HEADER.size))
            head = _Head(file)
            return {head.text(): head.value(head.number(4)) for _ in range(count)}
    except (OSError, struct.error, ValueError, KeyError, RecursionError) as error:
        msg = f"The head of {str(path)!r} is damaged ({error}). Fetch the model again."
        raise ProvisioningFailed(msg) from error


class _Head:
    """Reads the values in the header of an open GGUF file one after the other, from its current position.

    `text` reads a text; `value` a value of any GGUF type, given by the type's number, arrays included; `number` one of
    a numeric type, converted to an integer. A damaged header raises `ValueError`, `KeyError` or `struct.error`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def value(self, kind: int) -> Found:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number(4), self._length()
            return [self.value(inner) for _ in range(count)]
        return self._scalar(kind)

    def text(self) -> str:
        length = self._length()
        data = self._file.read(length)
        if len(data) < length:
            msg = "a text ends beyond the end of the file"
            raise ValueError(msg)
        return data.decode("utf-8", "replace")

    def number(self, kind: int) -> int:
        return int(self._scalar(kind))

    def _length(self) -> int:
        # Each counted item takes at least a byte. Reading before this check could allocate as much
        # memory as a damaged length demands.
        length = self.number(10)
        if length > self._size:
            msg = f"a length of {length} in a file of {self._size} bytes"
            raise ValueError(msg)
        return length

    def _scalar(self, kind: int) -> int | float:
        form = _SCALARS[kind]
        value: int | float = form.unpack(self._file.read(form.size))[0]
        return value
