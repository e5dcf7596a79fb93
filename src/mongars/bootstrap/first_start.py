"""Prepare a database before the API starts: current schema, first administrator, and a local API key."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mongars.api.credentials import Keys, Passwords
from mongars.api.first_run import ADMIN, bootstrap_admin
from mongars.bootstrap.secrets import keep_secret, read_secret
from mongars.core.clock import SystemClock, pause
from mongars.persistence.database import Database
from mongars.persistence.migrate import upgrade, wait_for_database
from mongars.persistence.sql_accounts import SqlAccounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mongars.api.first_run import FirstRun
    from mongars.settings import Settings

CLI_KEY = "cli-key"
"""Name of the secret file with the API key that `mongars chat` and `mongars status` use on this machine."""


def print_line(line: str) -> None:
    """Write `line` and a line feed to standard error, and flush it."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def prepare_database(
    settings: Settings,
    *,
    local_key: bool = True,
    wait: Callable[[float], None] = pause,
    report: Callable[[str], None] = print_line,
) -> FirstRun | None:
    """Wait for the database, migrate it to the newest schema, and create the first administrator if there is none.

    Returns the new administrator's credentials, None if an administrator exists already. `local_key`: also store an
    administrator's API key in the home folder, for the commands of this machine; False for API processes that may be
    short-lived. `wait` sleeps for a number of seconds between two attempts to connect; `report` is called with a line
    of text at the first failure and about every ten seconds of the wait.

    Blocks and runs an event loop of its own, so call it outside of any or in a thread. Raises `StorageUnavailable` if
    the database cannot be reached within `DB_STARTUP_TIMEOUT`, `ConfigurationError` if a setting or a secret file is
    unusable.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = settings.database()
    wait_for_database(database, wait=wait, report=report)
    upgrade(database)
    return asyncio.run(_accounts(settings, local_key=local_key))


@asynccontextmanager
async def open_accounts(settings: Settings) -> AsyncIterator[SqlAccounts]:
    """A context manager that gives the store of accounts and API keys, for commands; closes the database on exit.

    Raises `ConfigurationError` if `DATABASE_URL` is unusable. Connects only when the store is used.
    """
    async with Database(settings.database()) as database:
        yield SqlAccounts(database, SystemClock())


async def _accounts(settings: Settings, *, local_key: bool) -> FirstRun | None:
    preset = settings.environment.bootstrap_api_key
    async with open_accounts(settings) as store:
        first = await bootstrap_admin(
            store,
            Passwords(),
            preset_key=None if preset is None else preset.get_secret_value(),
        )
        if local_key:
            await _ensure_cli_key(settings, store)
    return first


async def _ensure_cli_key(settings: Settings, store: SqlAccounts) -> None:
    keys = Keys()
    known = read_secret(settings.home, CLI_KEY)
    if known is not None and await store.find_key(keys.digest(known)) is not None:
        return
    admins = [account.username for account in await store.accounts() if account.is_admin]
    owner = ADMIN if ADMIN in admins else admins[0]
    issued = keys.issue(owner, "this machine's command line", is_admin=True)
    await store.create_key(issued.record)
    keep_secret(settings.home, CLI_KEY, issued.plaintext)
