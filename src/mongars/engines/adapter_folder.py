r"""A LoRA adapter as a folder of files, identified by a digest of their content.

The digest of a folder is the SHA-256 of one line per file, sorted by path:
`<path>\0<size>\0<sha256 of the file>\n`, with paths relative to the folder and `/` between their parts.
"""

from __future__ import annotations

import json
import re
import reprlib
import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mongars.adapters.digest import described, version_digest
from mongars.core.errors import InferenceFailed

if TYPE_CHECKING:
    from pathlib import Path

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
LOADABLE_FILES = frozenset(
    {
        CONFIG_FILE,
        WEIGHTS_FILE,
        "README.md",
        "added_tokens.json",
        "chat_template.jinja",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
"""The only files that an adapter folder may hold when an engine loads it; others, such as pickles, can execute code."""
LONGEST_CONFIG = 1 << 20
"""The largest accepted `adapter_config.json`, in bytes."""
UNUSABLE_FILE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading a file of JSON of unknown content raises: besides `OSError`, whatever its content makes wrong."""
SHOWN = 200
"""How many characters of a name from an adapter's files a message contains."""
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
    path: Path

    @property
    def name(self) -> str:
        """The adapter's name in messages and to vLLM: `VERSION@DIGEST` with the first 12 digits of the digest."""
        return f"{self.version}@{self.digest[:12]}"


def folder_digest(path: Path) -> str:
    """Compute the SHA-256 over the paths, sizes and contents of all files below the folder `path`.

    Returns 64 hexadecimal digits.

    Raises `InferenceFailed` if the folder holds a link, a special file or a file whose name is not UTF-8, or if it or a
    file in it cannot be read.
    """
    files = []
    try:
        for name in _file_names(path):
            with (path / name).open("rb") as stream:
                files.append(described(name, iter(partial(stream.read, _BLOCK), b"")))
    except OSError as error:
        raise _unreadable(path, error) from error
    return version_digest(files)


def check_adapter(adapter: AdapterFolder, *, max_rank: int) -> None:
    """Check that the adapter's files are those of its digest, and that an engine can load them.

    Raises `InferenceFailed` if `adapter.digest` is not the digest of the folder's files; if the folder or a subfolder
    holds a file other than the configuration, the weights, README.md and a tokenizer's files (`LOADABLE_FILES`), such
    as a pickle; if `adapter_config.json` is larger than 1 MiB, or its LoRA rank is missing or above `max_rank`; or if
    the weights are missing or not pairs of LoRA matrices.
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
    _check_files(adapter)
    rank = _rank(adapter)
    if rank > max_rank:
        msg = f"Adapter {adapter.name!r} has rank {rank}; the engine takes at most {max_rank}."
        raise InferenceFailed(msg)
    adapted_modules(adapter)


def adapted_modules(adapter: AdapterFolder) -> dict[str, tuple[list[int], list[int]]]:
    """The shapes of the LoRA matrices of an adapter: module of the base model to (shape of A, shape of B).

    Module names are such as `model.layers.0.mlp.up_proj`. A shape lists the matrix's two dimensions. Reads only the
    header of the weights file.

    Raises:
        InferenceFailed: the weights file is unusable, or holds no LoRA weights, a matrix without its counterpart, two
            pairs for one module, other tensors, or a matrix that has not two dimensions of at least 1.
    """
    shapes = tensor_shapes(adapter.path / WEIGHTS_FILE, of=f"Adapter {adapter.name!r}")
    pairs = [name.removesuffix(_A) for name in shapes if name.endswith(_A)]
    odd = shapes.keys() ^ {pair + half for pair in pairs for half in (_A, _B)}
    if odd:
        msg = (
            f"Adapter {adapter.name!r} holds something else than pairs of LoRA weights:"
            f" {min(odd)[:SHOWN]!r} is missing or has no counterpart."
        )
        raise InferenceFailed(msg)
    if not pairs:
        msg = f"Adapter {adapter.name!r} holds no LoRA weights."
        raise InferenceFailed(msg)
    for name, shape in shapes.items():
        if len(shape) != 2 or 0 in shape:  # noqa: PLR2004 (a matrix)
            msg = f"Adapter {adapter.name!r}: {name[:SHOWN]!r} has the shape {reprlib.repr(shape)}, which is no matrix."
            raise InferenceFailed(msg)
    found = {pair.removeprefix(_PREFIX): (shapes[pair + _A], shapes[pair + _B]) for pair in pairs}
    if len(found) != len(pairs):
        msg = f"Adapter {adapter.name!r} has two pairs of LoRA weights for one module."
        raise InferenceFailed(msg)
    return found


def tensor_shapes(path: Path, *, of: str) -> dict[str, list[int]]:
    """The shape of each tensor in the safetensors file `path`, by the tensor's name: its dimensions, none negative.

    Reads only the header of the file. Raises `InferenceFailed` if the file is unreadable, its length is not that in the
    header, or a shape is no list of such numbers; the message begins with `of`, which describes what the file belongs
    to.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
            header.pop("__metadata__", None)
            shapes = {name: _shape(tensor["shape"]) for name, tensor in header.items()}
            ends = [tensor["data_offsets"][1] for tensor in header.values()]
            whole = 8 + length + max(ends, default=0) == path.stat().st_size
    except (*UNUSABLE_FILE, struct.error) as error:
        raise unusable(path.name, error, of=of) from error
    if not whole:
        msg = f"{of}: {path.name} is cut short or too long."
        raise InferenceFailed(msg)
    return shapes


def unusable(name: str, error: Exception, *, of: str) -> InferenceFailed:
    """The `InferenceFailed` for the file `name` that could not be read because of `error`.

    `of`: what the file belongs to; the message begins with it. The file's content is not in the message.
    """
    return InferenceFailed(f"{of} has no usable {name}: {type(error).__name__}: {error}.")


def _shape(found: object) -> list[int]:
    if not isinstance(found, list) or any(type(size) is not int or size < 0 for size in found):
        msg = f"a tensor has the shape {reprlib.repr(found)}"
        raise ValueError(msg)
    return found


def _check_files(adapter: AdapterFolder) -> None:
    try:
        others = sorted(set(_file_names(adapter.path)) - LOADABLE_FILES)
    except OSError as error:
        raise _unreadable(adapter.path, error) from error
    if others:
        msg = (
            f"Adapter {adapter.name!r} holds {others[0]!r}. Remove it: besides {WEIGHTS_FILE} and"
            f" {CONFIG_FILE}, only README.md and JSON and text files of a tokenizer are allowed."
        )
        raise InferenceFailed(msg)


def _file_names(folder: Path) -> list[str]:
    """The paths of all files below `folder`, relative to it, with `/` between their parts.

    Raises `InferenceFailed` if it holds a link, a special file or a file whose name is not UTF-8, `OSError` if it
    cannot be read.
    """
    names = []
    folders = [folder]  # not by recursion, which a deep folder would exhaust
    while folders:
        for entry in folders.pop().iterdir():
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                msg = f"The adapter folder holds {str(entry)!r}, which is neither file nor folder."
                raise InferenceFailed(msg)
            if entry.is_dir():
                folders.append(entry)
            else:
                names.append(_utf8_name(entry, folder))
    return names


def _utf8_name(file: Path, folder: Path) -> str:
    name = file.relative_to(folder).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        msg = f"The adapter folder holds {name!r}, a name that is not UTF-8."
        raise InferenceFailed(msg) from error
    return name


def _unreadable(folder: Path, error: OSError) -> InferenceFailed:
    reason = error.strerror or error
    return InferenceFailed(f"The adapter in {str(folder)!r} cannot be read: {reason}.")


def _rank(adapter: AdapterFolder) -> int:
    try:
        with (adapter.path / CONFIG_FILE).open("rb") as file:
            content = file.read(LONGEST_CONFIG + 1)
        if len(content) > LONGEST_CONFIG:
            msg = f"Adapter {adapter.name!r}: {CONFIG_FILE} is larger than {LONGEST_CONFIG} bytes."
            raise InferenceFailed(msg)
        rank = json.loads(content)["r"]
    except UNUSABLE_FILE as error:
        raise unusable(CONFIG_FILE, error, of=f"Adapter {adapter.name!r}") from error
    if type(rank) is not int or rank < 1:  # `isinstance` would accept true
        msg = f"Adapter {adapter.name!r} names the rank {reprlib.repr(rank)} in {CONFIG_FILE}."
        raise InferenceFailed(msg)
    return rank
