"""All parts of authentication, over a real SQLite file."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from mongars.api.accounts import Authenticator, create_account
from mongars.api.credentials import Keys, Passwords, TokenConfig, Tokens
from mongars.api.key_cache import KeyCache
from mongars.api.throttle import LoginThrottle
from mongars.persistence.config import DatabaseConfig
from mongars.persistence.database import Database
from mongars.persistence.migrate import upgrade
from mongars.persistence.sql_accounts import SqlAccounts
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mongars.core.identity import Principal

SECRET = "a secret of more than thirty-two bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSetup:
    """All parts of authentication over one SQLite database."""

    store: SqlAccounts
    database: Database
    clock: ManualClock
    passwords: Passwords
    tokens: Tokens
    authenticator: Authenticator

    async def who(self, credential: str) -> Principal:
        """The account that `credential` authenticates as a bearer token."""
        return await self.authenticator.authenticate(f"Bearer {credential}")

    async def member(self, username: str = "ada", *, is_admin: bool = False) -> None:
        """Create an account with the password `correct horse`."""
        await create_account(
            self.store,
            self.passwords,
            username=username,
            password="correct horse",
            is_admin=is_admin,
        )

    async def key(self, username: str = "ada", *, is_admin: bool = False) -> tuple[str, str]:
        """Issue an API key for an account. Returns the key's plain text and its id."""
        issued = Keys().issue(username, "test", is_admin=is_admin)
        await self.store.create_key(issued.record)
        return issued.plaintext, issued.record.id


@pytest.fixture
async def auth(tmp_path: Path) -> AsyncIterator[AuthSetup]:
    """Authentication over an empty database without accounts."""
    config = DatabaseConfig(url=f"sqlite:///{tmp_path}/mongars.db")
    await asyncio.to_thread(upgrade, config)
    clock = ManualClock()
    passwords, tokens = Passwords(), Tokens(TokenConfig(secret=SECRET), clock)
    async with Database(config) as database:
        store = SqlAccounts(database, clock)
        yield AuthSetup(
            store=store,
            database=database,
            clock=clock,
            passwords=passwords,
            tokens=tokens,
            authenticator=Authenticator(
                store,
                tokens=tokens,
                passwords=passwords,
                throttle=LoginThrottle(clock),
                cache=KeyCache(clock),
            ),
        )
