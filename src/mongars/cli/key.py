"""The API key that commands send to the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.bootstrap.first_start import CLI_KEY
from mongars.bootstrap.running import is_own_api
from mongars.bootstrap.secrets import read_secret, secret_file
from mongars.core.errors import ConfigurationError

if TYPE_CHECKING:
    from mongars.settings import Settings


def api_key(settings: Settings, url: str) -> str | None:
    """The API key for the API at `url`: `MONGARS_API_KEY`, else the local key in the home folder; None without either.

    The local key is an administrator's, and `.env` in the current folder, which another user may have written, can name
    any host. So the local key is sent only to the API that runs from the same home folder.

    Raises `ConfigurationError` if there is a local key only, and `url` is another API.
    """
    given = settings.environment.api_key
    if given is not None:
        return given.get_secret_value()
    kept = read_secret(settings.home, CLI_KEY)
    if kept is None:
        return None
    elsewhere = secret_file(settings.home, CLI_KEY).resolve().parents[1] != settings.home.resolve()
    if elsewhere or not is_own_api(settings, url):
        detail = (
            f"{url} is not the stack of {settings.home}, so its local key is not sent there. Set"
            " MONGARS_API_KEY to a key of that server, or look for a foreign .env in this folder."
        )
        raise ConfigurationError(detail)
    return kept
