"""The check for optional dependencies."""

from __future__ import annotations

import importlib.util

from mongars.core.errors import ConfigurationError


def require(module: str, *, extra: str) -> None:
    """Raise `ConfigurationError` if the Python module `module` is not installed; does not import it.

    The message names `extra`, the extra of the `mongars` distribution that installs it.
    """
    if importlib.util.find_spec(module) is None:
        message = f"{module!r} is not installed. Install it with: pip install 'mongars[{extra}]'"
        raise ConfigurationError(message)
