"""Accounts and API keys in the database."""

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
    """An account is found by its name in any case, and returned with its name as it was created."""
    created = await accounts.create_account(ADA)
    found = await accounts.credentials("aDA")
    assert found is not None
    assert (found.account, found.password_hash) == (created, "hash of ada")
    assert (created.username, created.is_admin, created.created_at) == ("Ada", False, clock.now())
    assert await accounts.credentials("bob") is None
    assert "hash of ada" not in repr(found)


async def test_a_name_is_taken_in_every_case(accounts: SqlAccounts) -> None:
    """Names that differ only in case are the same name, so the second account is refused."""
    await accounts.create_account(ADA)
    with pytest.raises(Conflict, match="ADA"):
        await accounts.create_account(NewAccount(username="ADA", password_hash="x"))
    assert len(await accounts.accounts()) == 1


async def test_of_simultaneous_creations_one_wins(accounts: SqlAccounts) -> None:
    """Of five concurrent creations of one account, one succeeds and four raise `Conflict`."""

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
    """`has_admin` is true once there is an administrator; accounts are listed oldest first."""
    await accounts.create_account(ADA)
    assert not await accounts.has_admin()
    await accounts.create_account(NewAccount(username="root", password_hash="x", is_admin=True))
    assert await accounts.has_admin()
    assert [(a.username, a.is_admin) for a in await accounts.accounts()] == [
        ("Ada", False),
        ("root", True),
    ]


async def test_a_password_can_be_replaced(accounts: SqlAccounts) -> None:
    """A new password hash replaces the old one; for an unknown account `NotFound` is raised."""
    await accounts.create_account(ADA)
    await accounts.set_password("ada", "new hash")
    found = await accounts.credentials("Ada")
    assert found is not None
    assert found.password_hash == "new hash"
    with pytest.raises(NotFound, match="bob"):
        await accounts.set_password("bob", "x")


async def test_a_key_is_found_by_its_digest_only(accounts: SqlAccounts) -> None:
    """A key is found by its digest only, not by its id, and has the account's name as the account was created."""
    await accounts.create_account(ADA)
    created = await accounts.create_key(KEY)
    assert (created.id, created.username, created.name) == ("0123456789ab", "Ada", "laptop")
    assert await accounts.find_key("d" * 64) == created
    assert await accounts.find_key("0123456789ab") is None
    assert await accounts.keys() == await accounts.keys("ADA") == (created,)
    assert await accounts.keys("bob") == ()


async def test_a_key_needs_an_account_and_is_unique(accounts: SqlAccounts) -> None:
    """A key for an unknown account and a key that exists already are refused."""
    with pytest.raises(NotFound, match="ada"):
        await accounts.create_key(KEY)
    await accounts.create_account(ADA)
    await accounts.create_key(KEY)
    with pytest.raises(Conflict, match="exists already"):
        await accounts.create_key(KEY)


async def test_a_revoked_key_stays_revoked_since_then(
    accounts: SqlAccounts, clock: ManualClock
) -> None:
    """A revoked key is still listed, with the time at which it was first revoked."""
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
    """The time of a key's last use is written at most once a minute."""
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
    """Deleting an account deletes its keys, on SQLite as well as on PostgreSQL."""
    await accounts.create_account(ADA, key=replace(KEY, username="Ada"))
    async with database.writing() as connection:
        await connection.execute(text("DELETE FROM user_accounts"))
    assert await accounts.keys() == ()
