"""Secrets of one home folder: made once, kept in files only their owner can read."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from mongars.core.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


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
    """Write a secret, whole or not at all, readable by its owner only."""
    path = secret_file(home, name)
    part = path.with_name(f".{name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(value + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        detail = f"The secret file {path} cannot be written: {exc.strerror}."
        raise ConfigurationError(detail) from exc


def ensure_secret(home: Path, name: str) -> str:
    """The secret; made of 256 random bits the first time."""
    found = read_secret(home, name)
    if found is None:
        found = secrets.token_hex(32)
        keep_secret(home, name, found)
    return found
