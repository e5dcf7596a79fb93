"""Secrets of one home folder: made once, kept in files only their owner can read."""

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
    """Where a secret is kept."""
    return home / "secrets" / name


def read_secret(home: Path, name: str) -> str | None:
    """The secret, if there is one."""
    path = secret_file(home, name)
    try:
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except OSError as exc:
        detail = f"The secret file {path} cannot be read: {exc.strerror}."
        raise ConfigurationError(detail) from exc


def keep_secret(home: Path, name: str, value: str) -> None:
    """Write a secret, whole or not at all, readable by its owner only; replaces an earlier one."""
    path = secret_file(home, name)
    with _written(path, value) as part:
        part.replace(path)


def ensure_secret(home: Path, name: str) -> str:
    """The secret; made of 256 random bits the first time.

    Of several processes that make it at once one wins, and all return what is in the file.
    """
    found = read_secret(home, name)
    if found is not None:
        return found
    path = secret_file(home, name)
    # Unlike `replace`, a link never takes the place of a file that is there.
    with _written(path, secrets.token_hex(32)) as part, suppress(FileExistsError):
        path.hardlink_to(part)
    found = read_secret(home, name)
    if found is None:
        detail = f"The secret file {path} is empty. Delete it, and a new secret is made."
        raise ConfigurationError(detail)
    return found


@contextmanager
def _written(path: Path, value: str) -> Iterator[Path]:
    """A file beside `path`, with the secret in it, that is gone in the end."""
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
    """The form in which a token travels to the cluster. It is random, so one hash protects it."""
    return hashlib.sha256(token.encode()).hexdigest()
