"""The first bytes of a GGUF file: enough to refuse what no engine could load."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from mongars.core.errors import ProvisioningFailed

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = struct.Struct("<4sIQQ")  # magic, version, tensor count, metadata count
_VERSIONS = (2, 3)


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
