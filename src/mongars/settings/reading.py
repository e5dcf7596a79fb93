"""Reading the process environment, and `.env` in the working directory for variables that are not set there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from mongars.core.errors import ConfigurationError
from mongars.core.secrecy import is_secret
from mongars.settings.advice import (
    backoff_warnings,
    complaint,
    prompt_cache_warnings,
    unknown_names,
)
from mongars.settings.configuration import Settings
from mongars.settings.environment import Environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


ENV_FILE = ".env"


class _ProcessEnvironment(Environment, BaseSettings):
    """`Environment` with its values read from the process environment, or else from `.env` in the working directory."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_file_encoding="utf-8-sig", extra="ignore", case_sensitive=True
    )


def read_environment(
    source: Mapping[str, str] | None = None,
) -> tuple[Environment, tuple[str, ...]]:
    """Read and validate all variables; returns them with warnings for the operator, such as about unknown names.

    `source` (variable name to text) replaces the process environment and `.env`, unless it is None.

    Raises:
        ConfigurationError: A value is invalid, and the message names each such variable; or `.env` is not UTF-8.
    """
    try:
        environment = (
            _ProcessEnvironment() if source is None else Environment.model_validate(dict(source))
        )
    except UnicodeDecodeError as exc:
        found = Path(ENV_FILE).absolute()
        msg = f"{found} is not UTF-8 ({exc.reason}). Save it as UTF-8."
        raise ConfigurationError(msg) from exc
    except ValidationError as exc:
        lines = [complaint(dict(error)) for error in exc.errors()]
        raise ConfigurationError("\n".join(lines)) from exc
    if source is None:
        names = {*DotEnvSettingsSource(_ProcessEnvironment).env_vars, *os.environ}
    else:
        names = set(source)
    warnings = (*backoff_warnings(environment), *prompt_cache_warnings(environment))
    return environment, (*unknown_names(names), *warnings)


def load_settings(source: Mapping[str, str] | None = None) -> Settings:
    """Read and validate all settings from the process environment and `.env` in the working directory.

    `source` (variable name to text) replaces both, unless it is None. Raises `ConfigurationError`, naming every
    variable whose value is invalid.
    """
    environment, warnings = read_environment(source)
    return Settings(environment=environment, warnings=warnings)


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child process: this process's variables except secrets, updated with `changes`.

    Secrets are `DATABASE_URL`, and variables with KEY, SECRET, TOKEN, CREDENTIAL, PASSWORD, PASSWD, PASSPHRASE or
    PGPASS in the name, unless it begins with `TOKENIZERS_` or ends in `_FILE`, `_PATH`, `_DIR`, `_MINUTES`, `_TOKENS`
    or `PGPASSFILE`. `changes` may contain secrets.
    """
    kept = {name: value for name, value in os.environ.items() if not is_secret(name)}
    return {**kept, **changes}


def passed_on(names: Iterable[str]) -> dict[str, str]:
    """The variables among `names` that are set in this process's environment, with their values."""
    return {name: os.environ[name] for name in names if name in os.environ}
