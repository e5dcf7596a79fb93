"""Write the header of a GGUF file: its metadata and the offsets of its tensors.

Layout (version 3, little-endian): magic, version, counts, key-value pairs, one entry per tensor, zeros up to the
next multiple of 32; then the tensors, each padded likewise.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Value = str | bool | int | float | tuple[str, ...] | tuple[int, ...]

F32, F16 = 0, 1
"""The identifiers of tensor types in GGUF."""

_ALIGNMENT = 32
_VERSION = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """The description of a tensor to be written to a GGUF file: its name, `shape` and type of numbers.

    `shape` is in C order (last dimension contiguous). `kind` is `F32` or `F16`.
    """

    name: str
    shape: tuple[int, ...]
    kind: int

    @property
    def count(self) -> int:
        """The number of elements of the tensor."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """The size of the tensor in bytes, without the padding after it."""
        return self.count * (2 if self.kind == F16 else 4)


def gguf_head(values: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    """The bytes of a GGUF file before its first tensor: the metadata `values`, by key, and the list of tensors.

    A value is a text, a boolean, a number, or a tuple of texts or of integers. The bytes of the tensors must follow in
    the given order, each with zero bytes up to the next multiple of 32.
    """
    head = bytearray(struct.pack("<4sIQQ", b"GGUF", _VERSION, len(tensors), len(values)))
    for key, value in values.items():
        head += _string(key) + _value(value)
    offset = 0
    for tensor in tensors:
        head += _string(tensor.name)
        head += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        head += struct.pack("<IQ", tensor.kind, offset)
        offset += tensor.size + len(padding(tensor.size))
    return bytes(head) + padding(len(head))


def padding(size: int) -> bytes:
    """The zero bytes to write after a tensor of `size` bytes, so that the next one begins at a multiple of 32."""
    return bytes(-size % _ALIGNMENT)


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _UINT32, value)
        case float():
            return struct.pack("<If", _FLOAT32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
        case tuple():
            return struct.pack("<I", _ARRAY) + _array(value)


def _array(values: tuple[str, ...] | tuple[int, ...]) -> bytes:
    texts = [_string(value) for value in values if isinstance(value, str)]
    if texts:
        return struct.pack("<IQ", _STRING, len(values)) + b"".join(texts)
    return struct.pack(f"<IQ{len(values)}i", _INT32, len(values), *values)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
