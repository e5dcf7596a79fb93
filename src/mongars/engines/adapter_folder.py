r"""A LoRA adapter as a folder of files, identified by a digest of their content.

The digest of a folder is the SHA-256 of one line per file, sorted by path:
`<path>\0<size>\0<sha256 of the file>\n`, with paths relative to the folder and `/` between their parts.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongars.core.errors import InferenceFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20
_LONGEST_HEADER = 16 << 20
_PREFIX = "base_model.model."
_A = ".lora_A.weight"
_B = ".lora_B.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """One version of a LoRA adapter on disk: its folder `path` in the format of the PEFT library, and its identity.

    `version` is the version's name, `digest` the expected `folder_digest` of the folder; neither is checked here.
    """

    version: str
    digest: str
    """SHA-256 of the folder, 64 hexadecimal digits; the module describes how it is computed."""
    path: Path

    @property
    def name(self) -> str:
        """The adapter's name in messages and to vLLM: `VERSION@DIGEST` with the first 12 digits of the digest."""
        return f"{self.version}@{self.digest[:12]}"


def folder_digest(path: Path) -> str:
    """Compute the SHA-256 over the paths, sizes and contents of all files below the folder `path`.

    Returns 64 hexadecimal digits.

    Raises `InferenceFailed` if the folder holds a link or a special file, or if it or a file in it cannot be read.
    """
    lines = hashlib.sha256()
    try:
        for file in sorted(_files(path), key=lambda file: file.relative_to(path).as_posix()):
            content = hashlib.sha256()
            size = 0
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    content.update(block)
                    size += len(block)
            name = file.relative_to(path).as_posix()
            lines.update(f"{name}\0{size}\0{content.hexdigest()}\n".encode())
    except OSError as error:
        msg = f"The adapter in {str(path)!r} cannot be read: {error.strerror or error}."
        raise InferenceFailed(msg) from error
    return lines.hexdigest()


def check_adapter(adapter: AdapterFolder, *, max_rank: int) -> None:
    """Check that the adapter's files are those of its digest, and that an engine can load them.

    Raises:
        InferenceFailed: `adapter.digest` is not the digest of the folder's files, the LoRA rank in its
            `adapter_config.json` is missing or above `max_rank`, the folder holds pickle files (`.bin`, `.pt`), or the
            weights are missing or not pairs of LoRA matrices.
    """
    if not _DIGEST.fullmatch(adapter.digest):
        msg = f"The digest of adapter {adapter.version!r} is no sha256: {adapter.digest!r}."
        raise InferenceFailed(msg)
    found = folder_digest(adapter.path)
    if found != adapter.digest:
        msg = (
            f"Adapter {adapter.name!r} is not what it should be: the digest of"
            f" {str(adapter.path)!r} is {found}, not {adapter.digest}."
        )
        raise InferenceFailed(msg)
    rank = _rank(adapter)
    if rank > max_rank:
        msg = f"Adapter {adapter.name!r} has rank {rank}; the engine takes at most {max_rank}."
        raise InferenceFailed(msg)
    pickles = [file.name for file in adapter.path.iterdir() if file.suffix in {".bin", ".pt"}]
    if pickles:
        msg = f"Adapter {adapter.name!r} holds {pickles[0]!r}; only safetensors are loaded."
        raise InferenceFailed(msg)
    adapted_modules(adapter)


def adapted_modules(adapter: AdapterFolder) -> dict[str, tuple[list[int], list[int]]]:
    """The shapes of the LoRA matrices of an adapter: module of the base model to (shape of A, shape of B).

    Module names are such as `model.layers.0.mlp.up_proj`. A shape lists the matrix's dimensions. Reads only the header
    of the weights file.

    Raises:
        InferenceFailed: the weights file is unusable, or holds no LoRA weights, a matrix without its counterpart, or
            other tensors.
    """
    header = tensor_header(adapter.path / WEIGHTS_FILE, of=f"Adapter {adapter.name!r}")
    found = {}
    for name, tensor in header.items():
        module = name.removesuffix(_A)
        if module != name:
            other = header.get(module + _B)
            found[module.removeprefix(_PREFIX)] = tensor["shape"], (other or {}).get("shape", [])
    if not found or len(header) != 2 * len(found):
        msg = f"Adapter {adapter.name!r} holds something else than pairs of LoRA weights, or none."
        raise InferenceFailed(msg)
    return found


def tensor_header(path: Path, *, of: str) -> dict[str, Any]:
    """Read the header of the safetensors file `path`: each tensor's name to its `dtype`, `shape` and `data_offsets`.

    These are in the format of the file (JSON values); its entry `__metadata__` is left out. Raises `InferenceFailed` if
    the file is unreadable or its length is not that in the header; the message begins with `of`, which describes what
    the file belongs to.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
            header.pop("__metadata__", None)
            ends = [tensor["data_offsets"][1] for tensor in header.values()]
            whole = 8 + length + max(ends, default=0) == path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        msg = f"{of} has no usable {path.name}: {error!r}."
        raise InferenceFailed(msg) from error
    if not whole:
        msg = f"{of}: {path.name} is cut short or too long."
        raise InferenceFailed(msg)
    return dict(header)


def _files(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            msg = f"The adapter folder holds {str(entry)!r}, which is neither file nor folder."
            raise InferenceFailed(msg)
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


def _rank(adapter: AdapterFolder) -> int:
    try:
        config = json.loads((adapter.path / CONFIG_FILE).read_bytes())
        rank = config["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"Adapter {adapter.name!r} has no usable {CONFIG_FILE}: {error!r}."
        raise InferenceFailed(msg) from error
    if not isinstance(rank, int) or rank < 1:
        msg = f"Adapter {adapter.name!r} names the rank {rank!r} in {CONFIG_FILE}."
        raise InferenceFailed(msg)
    return rank
