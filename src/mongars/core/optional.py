"""The check for optional dependencies."""

from __future__ import annotations

import importlib.util

from mongars.core.errors import ConfigurationError


def require(module: str, *, extra: str) -> None:
    """Raise `ConfigurationError`, naming the extra to install, if the Python module `module` is not installed."""
    if importlib.util.find_spec(module) is None:
        message = f"{module!r} is not installed. Install it with: pip install 'mongars[{extra}]'"
        raise ConfigurationError(message)
