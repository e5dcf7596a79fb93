"""Checks of what the parts need, for `mongars doctor`; they change nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mongars.bootstrap.model import configured_model
from mongars.core.errors import ConfigurationError, StorageUnavailable
from mongars.persistence.database import Database
from mongars.persistence.migrate import current, head
from mongars.persistence.url import masked

if TYPE_CHECKING:
    from mongars.settings import Settings


def model_check(settings: Settings) -> str:
    """The base model is there. Raises `ConfigurationError` with the command that fetches it."""
    found = configured_model(settings)
    if found is None:
        detail = f"no base model in {settings.cache}; run: python -m scripts.provision_models"
        raise ConfigurationError(detail)
    return f"{found.name} ({found.digest[:12]})"


def database_check(settings: Settings) -> str:
    """The database answers and its schema is current. Raises what is wrong."""
    config = settings.database()
    asyncio.run(_reach(settings))
    revision = current(config)
    if revision != head():
        detail = f"the schema is at {revision}, this version needs {head()}; run: python init_db.py"
        raise StorageUnavailable(detail)
    return f"{masked(config.url)} at {revision}"


async def _reach(settings: Settings) -> None:
    async with Database(settings.database()) as database:
        await database.healthy()
