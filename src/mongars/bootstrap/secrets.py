"""Secrets stored as files of a home folder: generated once, readable only by their owner."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mongars.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

RAY_TOKEN = "ray-token"  # noqa: S105 (the name of a file)
SERVE_TOKEN = "serve-token"  # noqa: S105 (the name of a file)


def secret_file(home: Path, name: str) -> Path:
    """The path of the file that stores the secret of that name."""
    return home / "secrets" / name


def read_secret(home: Path, name: str) -> str | None:
    """Read the secret of that name; None if its file does not exist or is empty.

    Raises `ConfigurationError` if the file cannot be read.
    """
    path = secret_file(home, name)
    try:
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except OSError as exc:
        detail = f"The secret file {path} cannot be read: {exc.strerror}."
        raise ConfigurationError(detail) from exc


def keep_secret(home: Path, name: str, value: str) -> None:
    """Write a secret atomically to a file that only its owner can read; replaces an earlier one.

    Raises `ConfigurationError` if the file cannot be written.
    """
    path = secret_file(home, name)
    with _written(path, value) as part:
        part.replace(path)


def ensure_secret(home: Path, name: str) -> str:
    """The secret of that name; at the first call, it is generated from 256 random bits and stored.

    If several processes generate it at the same time, one of them writes the file and all return its content. Raises
    `ConfigurationError` if the file cannot be read or written, or is empty.
    """
    found = read_secret(home, name)
    if found is not None:
        return found
    path = secret_file(home, name)
    # Unlike `replace`, creating a link never overwrites an existing file.
    with _written(path, secrets.token_hex(32)) as part, suppress(FileExistsError):
        path.hardlink_to(part)
    found = read_secret(home, name)
    if found is None:
        detail = f"The secret file {path} is empty. Delete it, and a new secret is made."
        raise ConfigurationError(detail)
    return found


@contextmanager
def _written(path: Path, value: str) -> Iterator[Path]:
    """A temporary file in the folder of `path` that contains the secret; removed when the context is left."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(value + "\n")
                file.flush()
                os.fsync(file.fileno())
            yield Path(part)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError as exc:
        detail = f"The secret file {path} cannot be written: {exc.strerror}."
        raise ConfigurationError(detail) from exc


def digest_of(token: str) -> str:
    """The SHA-256 of a token in hexadecimal, the form in which the token is sent to the cluster.

    A token is random, so one hash suffices to protect it.
    """
    return hashlib.sha256(token.encode()).hexdigest()
