"""Render an export (manifests for a deployment) and write its files, without overwriting foreign files."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from mongars.core.errors import ConfigurationError
from mongars.serving.exports import compose, helm, kubernetes, serve_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mongars.serving.exports.config import ExportConfig

ExportKind = Literal["serve", "k8s", "helm", "compose"]

_FILES: dict[ExportKind, Callable[[ExportConfig], dict[str, str]]] = {
    "serve": serve_yaml.files,
    "k8s": kubernetes.files,
    "helm": helm.files,
}


def render(kind: ExportKind, config: ExportConfig, *, source: str = ".") -> dict[str, str]:
    """The files of an export (manifests for a deployment), as a map of relative path to text.

    `kind`: `serve`, `k8s`, `helm` or `compose`. `source` is the path from the export's folder to this repository, from
    which Compose builds images; the other kinds ignore it.

    Raises `ConfigurationError` if this kind of export cannot express the configuration.
    """
    return compose.files(config, source=source) if kind == "compose" else _FILES[kind](config)


def source_from(folder: Path) -> str:
    """The relative path from `folder` to this repository, from which images can be built.

    `.` if the package is not installed from a checkout of the repository.
    """
    root = Path(__file__).resolve().parents[4]
    if not (root / "deploy" / "docker").is_dir():
        return "."
    return Path(os.path.relpath(root, folder.resolve())).as_posix()


def write(
    files: Mapping[str, str], folder: Path, *, kind: ExportKind, force: bool = False
) -> tuple[str, ...]:
    """Write the files of an export (relative path to text) into `folder`, and remove obsolete ones of the last export.

    Returns the relative paths that were created, changed or removed. A list of the written files is stored beside them
    (`.mongars-export-KIND.json`). All files are checked first; then each is replaced atomically. `force`: overwrite and
    remove files even if no export wrote them or they were edited since.

    Raises `ConfigurationError`, before any change, if there is such a file, unless `force`; also if a file cannot be
    read or written.
    """
    record = folder / f".mongars-export-{kind}.json"
    made = _read_record(record)
    stale = [path for path in made if path not in files and _is_ours(folder, path)]
    if not force:
        _refuse_foreign(files, folder, made=made, stale=stale)
    changed = [path for path, text in files.items() if _content(folder / path) != text]
    for path in changed:
        _replace(folder / path, files[path])
    for path in stale:
        (folder / path).unlink()
    digests = {path: _digest(text) for path, text in sorted(files.items())}
    _replace(record, json.dumps(digests, indent=2) + "\n")
    return (*changed, *stale)


def _is_ours(folder: Path, path: str) -> bool:
    """Whether `path`, relative to `folder`, is a regular file inside of the folder, after resolving links."""
    inside = (folder / path).resolve().is_relative_to(folder.resolve())
    return inside and (folder / path).is_file()


def _refuse_foreign(
    files: Mapping[str, str], folder: Path, *, made: Mapping[str, str], stale: list[str]
) -> None:
    foreign = []
    for path in (*files, *stale):
        present = _content(folder / path)
        if present is None or present == files.get(path):
            continue
        if _digest(present) != made.get(path):
            foreign.append(path)
    if foreign:
        message = (
            f"{folder} holds files that were not exported here or were edited since:"
            f" {', '.join(sorted(foreign))}. Choose another folder, or overwrite them with --force."
        )
        raise ConfigurationError(message)


def _read_record(record: Path) -> dict[str, str]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise _unusable(record, exc) from exc
    except ValueError:
        found = None
    if not isinstance(found, dict):
        message = f"{record} is no list of exported files. Remove it, or choose another folder."
        raise ConfigurationError(message)
    # No export writes a path that leaves the folder.
    return {str(path): str(digest) for path, digest in found.items() if _inside(path)}


def _inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts


def _content(path: Path) -> str | None:
    """The text of a file; None if it does not exist. Raises `ConfigurationError` if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _unusable(path, exc) from exc


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as exc:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise _unusable(path, exc) from exc


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path}: {error.strerror}. Choose another folder with --out.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
