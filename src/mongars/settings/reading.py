"""The one place that reads the process environment, and `.env` in the working directory below it."""

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
    """The same variables, read from where a process finds them."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_file_encoding="utf-8-sig", extra="ignore", case_sensitive=True
    )


def read_environment(
    source: Mapping[str, str] | None = None,
) -> tuple[Environment, tuple[str, ...]]:
    """All variables and the warnings about them.

    Raises:
        ConfigurationError: a value is wrong; the message names each such variable.
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
    """Read everything once; `source` replaces the environment and `.env`, for tests.

    Raises `ConfigurationError` naming every variable whose value is wrong.
    """
    environment, warnings = read_environment(source)
    return Settings(environment=environment, warnings=warnings)


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its secrets, with changes, for the processes it starts."""
    kept = {name: value for name, value in os.environ.items() if not is_secret(name)}
    return {**kept, **changes}


def passed_on(names: Iterable[str]) -> dict[str, str]:
    """Those variables of this process's environment, as far as they are set: for one child."""
    return {name: os.environ[name] for name in names if name in os.environ}
