"""The key with which commands speak to the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.bootstrap.first_run import CLI_KEY
from mongars.bootstrap.secrets import read_secret

if TYPE_CHECKING:
    from mongars.settings import Settings


def api_key(settings: Settings) -> str | None:
    """The key commands use: `MONGARS_API_KEY`, else the one kept in the home folder."""
    given = settings.environment.api_key
    return read_secret(settings.home, CLI_KEY) if given is None else given.get_secret_value()
