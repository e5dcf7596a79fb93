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
    """The path of the file in the home folder `home` that stores the secret called `name`; it may not exist."""
    return home / "secrets" / name


def read_secret(home: Path, name: str) -> str | None:
    """Read the secret called `name` from the home folder `home`; None if its file does not exist or is empty.

    Raises `ConfigurationError` if the file cannot be read, or contains anything but ASCII.
    """
    path = secret_file(home, name)
    try:
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except OSError as exc:
        detail = f"The secret file {path} cannot be read: {exc.strerror}."
        raise ConfigurationError(detail) from exc
    except UnicodeDecodeError as exc:
        detail = f"The secret file {path} holds bytes that are not ASCII. Delete it, and a new secret is made."
        raise ConfigurationError(detail) from exc


def keep_secret(home: Path, name: str, value: str) -> None:
    """Store `value`, an ASCII text, as the secret called `name` in the home folder `home`, replacing an earlier value.

    The file is written atomically and only its owner can read it. Raises `ConfigurationError` if it cannot be written,
    `UnicodeEncodeError` if the value is not ASCII.
    """
    path = secret_file(home, name)
    with _written(path, value) as part:
        part.replace(path)


def ensure_secret(home: Path, name: str) -> str:
    """The secret called `name` in the home folder `home`; generated from 256 random bits and stored if there is none.

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
    """A context manager that gives a temporary file, in the folder of `path`, with the secret `value`; removed on exit.

    Raises `ConfigurationError` if it cannot be written, or for any `OSError` raised in the block.
    """
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
    """The SHA-256 of `token` in hexadecimal: the form in which an application's configuration contains its token.

    A token is random, so one unsalted hash suffices to protect it.
    """
    return hashlib.sha256(token.encode()).hexdigest()
