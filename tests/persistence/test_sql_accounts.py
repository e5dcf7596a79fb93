from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from mongars.core.errors import Conflict, NotFound
from mongars.core.identity import NewAccount, NewApiKey
from mongars.persistence.sql_accounts import SqlAccounts

if TYPE_CHECKING:
    from mongars.persistence.database import Database
    from mongars.testing.manual_clock import ManualClock

ADA = NewAccount(username="Ada", password_hash="hash of ada")
KEY = NewApiKey(id="0123456789ab", username="ada", name="laptop", digest="d" * 64)


@pytest.fixture
def accounts(database: Database, clock: ManualClock) -> SqlAccounts:
    """The repository on a migrated database."""
    return SqlAccounts(database, clock)


async def test_an_account_is_found_in_any_case(accounts: SqlAccounts, clock: ManualClock) -> None:
    """A stored account comes back under its own spelling, whatever the case asked for."""
    created = await accounts.create_account(ADA)
    found = await accounts.credentials("aDA")
    assert found is not None
    assert (found.account, found.password_hash) == (created, "hash of ada")
    assert (created.username, created.is_admin, created.created_at) == ("Ada", False, clock.now())
    assert await accounts.credentials("bob") is None
    assert "hash of ada" not in repr(found)


async def test_a_name_is_taken_in_every_case(accounts: SqlAccounts) -> None:
    """Two names that differ in case only are one name."""
    await accounts.create_account(ADA)
    with pytest.raises(Conflict, match="ADA"):
        await accounts.create_account(NewAccount(username="ADA", password_hash="x"))
    assert len(await accounts.accounts()) == 1


async def test_of_simultaneous_creations_one_wins(accounts: SqlAccounts) -> None:
    """When several callers make the same account at once, one succeeds and the rest are told."""

    async def create() -> bool:
        try:
            await accounts.create_account(ADA)
        except Conflict:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(create()) for _ in range(5)]
    assert sorted(task.result() for task in tasks) == [False] * 4 + [True]


async def test_an_account_and_its_first_key_are_made_together(accounts: SqlAccounts) -> None:
    """If the key cannot be stored, neither is the account."""
    await accounts.create_account(ADA)
    await accounts.create_key(KEY)
    bob = NewAccount(username="bob", password_hash="x")
    with pytest.raises(Conflict):
        await accounts.create_account(bob, key=replace(KEY, username="bob"))
    assert await accounts.credentials("bob") is None


async def test_an_administrator_is_noticed(accounts: SqlAccounts) -> None:
    """Whether anybody administers is known, and accounts are listed oldest first."""
    await accounts.create_account(ADA)
    assert not await accounts.has_admin()
    await accounts.create_account(NewAccount(username="root", password_hash="x", is_admin=True))
    assert await accounts.has_admin()
    assert [(a.username, a.is_admin) for a in await accounts.accounts()] == [
        ("Ada", False),
        ("root", True),
    ]


async def test_a_password_can_be_replaced(accounts: SqlAccounts) -> None:
    """The new hash counts; an unknown account is an error."""
    await accounts.create_account(ADA)
    await accounts.set_password("ada", "new hash")
    found = await accounts.credentials("Ada")
    assert found is not None
    assert found.password_hash == "new hash"
    with pytest.raises(NotFound, match="bob"):
        await accounts.set_password("bob", "x")


async def test_a_key_is_found_by_its_digest_only(accounts: SqlAccounts) -> None:
    """A key belongs to the account as that is spelled, and is found by nothing but its digest."""
    await accounts.create_account(ADA)
    created = await accounts.create_key(KEY)
    assert (created.id, created.username, created.name) == ("0123456789ab", "Ada", "laptop")
    assert await accounts.find_key("d" * 64) == created
    assert await accounts.find_key("0123456789ab") is None
    assert await accounts.keys() == await accounts.keys("ADA") == (created,)
    assert await accounts.keys("bob") == ()


async def test_a_key_needs_an_account_and_is_unique(accounts: SqlAccounts) -> None:
    """A key for nobody, or one that exists already, is refused."""
    with pytest.raises(NotFound, match="ada"):
        await accounts.create_key(KEY)
    await accounts.create_account(ADA)
    await accounts.create_key(KEY)
    with pytest.raises(Conflict, match="exists already"):
        await accounts.create_key(KEY)


async def test_a_revoked_key_stays_revoked_since_then(
    accounts: SqlAccounts, clock: ManualClock
) -> None:
    """Revoking keeps the key visible with the first time it was revoked."""
    await accounts.create_account(ADA)
    await accounts.create_key(KEY)
    at = clock.now()
    await accounts.revoke_key(KEY.id)
    await clock.advance(60)
    await accounts.revoke_key(KEY.id)
    (found,) = await accounts.keys()
    assert found.revoked_at == at
    with pytest.raises(NotFound, match="nothing"):
        await accounts.revoke_key("nothing")


async def test_use_is_noted_once_a_minute(accounts: SqlAccounts, clock: ManualClock) -> None:
    """The time of the last use is kept to the minute, not written at every use."""
    await accounts.create_account(ADA)
    await accounts.create_key(KEY)
    seen = []
    for seconds in (0, 59, 1):
        await clock.advance(seconds)
        await accounts.touch_key(KEY.id)
        (found,) = await accounts.keys()
        seen.append(found.last_used_at)
    assert seen[0] == seen[1]
    assert seen[2] == clock.now()


async def test_keys_go_with_their_account(accounts: SqlAccounts, database: Database) -> None:
    """Deleting an account deletes its keys, on SQLite too."""
    await accounts.create_account(ADA, key=replace(KEY, username="Ada"))
    async with database.writing() as connection:
        await connection.execute(text("DELETE FROM user_accounts"))
    assert await accounts.keys() == ()
