"""Reading the head of GGUF files, damaged ones included."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from mongars.core.errors import ProvisioningFailed
from mongars.engines.provisioning.gguf import gguf_values

if TYPE_CHECKING:
    from pathlib import Path

KEY = struct.pack("<Q", 1) + b"k"
STRING, ARRAY = 8, 9
VAST = (2**63 + 1, 2**40)


def head(entry: bytes) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + entry


def test_values_of_a_whole_head_are_read(tmp_path: Path) -> None:
    """The values in the head of a valid file are read."""
    path = tmp_path / "model.gguf"
    numbers = struct.pack("<IIQ", ARRAY, 0, 3) + b"\x01\x02\x03"
    path.write_bytes(head(KEY + numbers))
    assert gguf_values(path) == {"k": [1, 2, 3]}


@pytest.mark.parametrize(
    "entry",
    [
        *[struct.pack("<Q", length) for length in VAST],
        *[KEY + struct.pack("<IQ", STRING, length) for length in VAST],
        *[KEY + struct.pack("<IIQ", ARRAY, STRING, length) for length in VAST],
        KEY + struct.pack("<IQ", STRING, 30) + b"cut",
        KEY + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 5000,
    ],
    ids=[
        *["key-overflow", "key-vast", "text-overflow", "text-vast", "list-overflow", "list-vast"],
        *["text-cut", "lists-in-lists"],
    ],
)
def test_damaged_head_is_refused_in_words(tmp_path: Path, entry: bytes) -> None:
    """A damaged head is refused as damaged; a length in it never causes an allocation of that size."""
    path = tmp_path / "model.gguf"
    path.write_bytes(head(entry))
    with pytest.raises(ProvisioningFailed, match="damaged"):
        gguf_values(path)
