"""Accounts and API keys in SQL. Implements the protocols `AccountStore` and `KeyStore` of `mongars.api.accounts`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from mongars.core.errors import Conflict, NotFound
from mongars.core.identity import Account, ApiKey, Credentials
from mongars.persistence.tables import api_keys, user_accounts

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, RowMapping
    from sqlalchemy.ext.asyncio import AsyncConnection

    from mongars.core.clock import Clock
    from mongars.core.identity import NewAccount, NewApiKey
    from mongars.persistence.database import Database

_TOUCH_EVERY = timedelta(minutes=1)


class SqlAccounts:
    """Stores accounts and API keys in the database (implements `AccountStore` and `KeyStore`).

    Every method raises `StorageUnavailable` if the database fails.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create_account(self, new: NewAccount, *, key: NewApiKey | None = None) -> Account:
        """Store an account and, unless `key` is None, its first API key, in one transaction; returns the account.

        Raises `Conflict` if an account has that name, ignoring case, or if the API key is stored already.
        """
        now = self._clock.now()
        values = {
            "username": new.username,
            "password_hash": new.password_hash,
            "is_admin": new.is_admin,
            "created_at": now,
            "updated_at": now,
        }
        try:
            async with self._database.writing() as connection:
                if await _account(connection, new.username) is not None:
                    raise _name_taken(new.username)
                await connection.execute(insert(user_accounts).values(values))
                if key is not None:
                    await self._insert_key(connection, key)
        except IntegrityError as error:  # a concurrent request created it, or the key exists
            raise _name_taken(new.username) from error
        return Account(username=new.username, is_admin=new.is_admin, created_at=now)

    async def credentials(self, username: str) -> Credentials | None:
        """The account named `username`, ignoring case, with its password hash; None if there is no such account."""
        async with self._database.reading() as connection:
            row = await _account(connection, username)
        if row is None:
            return None
        return Credentials(account=_as_account(row), password_hash=row["password_hash"])

    async def accounts(self) -> tuple[Account, ...]:
        """All stored accounts, oldest first."""
        statement = select(user_accounts).order_by(user_accounts.c.id)
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return tuple(_as_account(row) for row in rows)

    async def has_admin(self) -> bool:
        """Whether at least one account has administrator's rights."""
        statement = select(user_accounts.c.id).where(user_accounts.c.is_admin).limit(1)
        async with self._database.reading() as connection:
            return (await connection.execute(statement)).first() is not None

    async def set_password(self, username: str, password_hash: str) -> None:
        """Replace the password hash of the account `username`, ignoring case. Raises `NotFound` if there is none."""
        statement = (
            update(user_accounts)
            .where(_same_name(username))
            .values(password_hash=password_hash, updated_at=self._clock.now())
        )
        async with self._database.writing() as connection:
            if not (await connection.execute(statement)).rowcount:
                raise _no_account(username)

    async def create_key(self, new: NewApiKey) -> ApiKey:
        """Store an API key; returns it without its digest.

        Raises `NotFound` if its account does not exist, `Conflict` if a key with its id or digest is stored already.
        """
        try:
            async with self._database.writing() as connection:
                row = await _account(connection, new.username)
                if row is None:
                    raise _no_account(new.username)
                # Stored with the account's spelling of the name, which may differ in case.
                return await self._insert_key(connection, replace(new, username=row["username"]))
        except IntegrityError as error:
            msg = "This API key exists already."
            raise Conflict(msg) from error

    async def find_key(self, digest: str) -> ApiKey | None:
        """The API key with the hexadecimal SHA-256 `digest`, even if it has been revoked; None if there is none."""
        statement = select(api_keys).where(api_keys.c.secret_hash == digest)
        async with self._database.reading() as connection:
            row = (await connection.execute(statement)).mappings().first()
        return None if row is None else _as_key(row)

    async def keys(self, username: str | None = None) -> tuple[ApiKey, ...]:
        """The API keys of the account `username`, or of all accounts if None; oldest first, including revoked ones.

        The case of the name is ignored. Empty if there is no such account or it has no key.
        """
        statement = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if username is not None:
            statement = statement.where(func.lower(api_keys.c.username) == username.lower())
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return tuple(_as_key(row) for row in rows)

    async def revoke_key(self, key_id: str) -> None:
        """Revoke the API key with the id `key_id` permanently. Raises `NotFound` if there is no such key.

        Revoking a key again keeps the time of the first revocation.
        """
        statement = (
            update(api_keys)
            .where(api_keys.c.id == key_id)
            .values(revoked_at=func.coalesce(api_keys.c.revoked_at, self._clock.now()))
        )
        async with self._database.writing() as connection:
            if not (await connection.execute(statement)).rowcount:
                msg = f"There is no API key with the id {key_id!r}."
                raise NotFound(msg)

    async def touch_key(self, key_id: str) -> None:
        """Record that the API key with the id `key_id` was used now; writes at most once a minute per key.

        Does nothing if there is no such key.
        """
        now = self._clock.now()
        last = api_keys.c.last_used_at
        statement = (
            update(api_keys)
            .where(api_keys.c.id == key_id)
            .where(or_(last.is_(None), last <= now - _TOUCH_EVERY))
            .values(last_used_at=now)
        )
        async with self._database.writing() as connection:
            await connection.execute(statement)

    async def _insert_key(self, connection: AsyncConnection, new: NewApiKey) -> ApiKey:
        now = self._clock.now()
        await connection.execute(
            insert(api_keys).values(
                id=new.id,
                username=new.username,
                name=new.name,
                secret_hash=new.digest,
                is_admin=new.is_admin,
                created_at=now,
            )
        )
        return ApiKey(
            id=new.id,
            username=new.username,
            name=new.name,
            is_admin=new.is_admin,
            created_at=now,
        )


async def _account(connection: AsyncConnection, username: str) -> RowMapping | None:
    statement = select(user_accounts).where(_same_name(username))
    return (await connection.execute(statement)).mappings().first()


def _same_name(username: str) -> ColumnElement[bool]:
    return func.lower(user_accounts.c.username) == username.lower()


def _as_account(row: RowMapping) -> Account:
    return Account(username=row["username"], is_admin=row["is_admin"], created_at=row["created_at"])


def _as_key(row: RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        username=row["username"],
        name=row["name"],
        is_admin=row["is_admin"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )


def _name_taken(username: str) -> Conflict:
    return Conflict(f"The account {username!r}, or its key, exists already.")


def _no_account(username: str) -> NotFound:
    return NotFound(f"There is no account {username!r}.")
