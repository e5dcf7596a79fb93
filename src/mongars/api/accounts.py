"""Accounts: the interfaces of their stores, creating an account, and authenticating a request.

A client sends an API key or a login token in the `Authorization` header; a browser may send a login
token in the session cookie. A login exchanges a username and a password for a token.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from mongars.api.credentials import INCORRECT_KEY, Keys
from mongars.api.login_queue import network_of
from mongars.api.session_cookie import SessionToken
from mongars.core.errors import (
    InvalidRequest,
    NotAuthenticated,
    StorageUnavailable,
    TooManyRequests,
)
from mongars.core.identity import NewAccount, Principal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.api.credentials import Passwords, Tokens
    from mongars.api.key_cache import KeyCache
    from mongars.api.throttle import LoginThrottle
    from mongars.core.identity import Account, ApiKey, Credentials, NewApiKey

_MAX_USERNAME = 150
_USERNAME = re.compile(rf"[A-Za-z0-9_-]{{1,{_MAX_USERNAME}}}")
_STORE_SECONDS = 2.0
_MIN_PASSWORD = 8
_MAX_PASSWORD = 1024  # a bound on the work of hashing


class AccountStore(Protocol):
    """Interface of a store of accounts. Every method raises `StorageUnavailable` if the store fails."""

    async def create_account(self, new: NewAccount, *, key: NewApiKey | None = None) -> Account:
        """Store an account and, unless `key` is None, its first API key, in one transaction; returns the account.

        Raises `Conflict` if an account has that name, ignoring case, or if the API key is stored already.
        """
        ...

    async def credentials(self, username: str) -> Credentials | None:
        """The account named `username`, ignoring case, with its password hash; None if there is no such account."""
        ...

    async def accounts(self) -> tuple[Account, ...]:
        """All stored accounts, oldest first."""
        ...

    async def has_admin(self) -> bool:
        """Whether at least one account has administrator's rights."""
        ...

    async def set_password(self, username: str, password_hash: str) -> None:
        """Replace the password hash of the account `username`, ignoring case. Raises `NotFound` if there is none."""
        ...


class KeyStore(Protocol):
    """Interface of a store of API keys. Every method raises `StorageUnavailable` if the store fails."""

    async def create_key(self, new: NewApiKey) -> ApiKey:
        """Store an API key; returns it without its digest.

        Raises `NotFound` if its account does not exist, `Conflict` if a key with its id or digest is stored already.
        """
        ...

    async def find_key(self, digest: str) -> ApiKey | None:
        """The API key with the hexadecimal SHA-256 `digest`, even if it has been revoked; None if there is none."""
        ...

    async def keys(self, username: str | None = None) -> tuple[ApiKey, ...]:
        """The API keys of the account `username`, or of all accounts if None; oldest first, including revoked ones.

        The case of the name is ignored. Empty if there is no such account or it has no key.
        """
        ...

    async def revoke_key(self, key_id: str) -> None:
        """Revoke the API key with the id `key_id` permanently. Raises `NotFound` if there is no such key.

        Does nothing if the key has been revoked already.
        """
        ...

    async def touch_key(self, key_id: str) -> None:
        """Record that the API key with the id `key_id` was used now; writes at most once a minute per key.

        Does nothing if there is no such key.
        """
        ...


class IdentityStore(AccountStore, KeyStore, Protocol):
    """Interface of a store of both accounts and API keys, in one database."""


async def create_account(
    store: AccountStore, passwords: Passwords, *, username: str, password: str, is_admin: bool
) -> Account:
    """Create an account with this name and password and store it; `is_admin` gives it administrator's rights.

    Raises `InvalidRequest` unless the name has 1 to 150 letters, digits, hyphens or underscores (ASCII) and the
    password 8 to 1,024 characters; `Conflict` if the name is taken, ignoring case; `TooManyRequests` if too many
    passwords are being hashed; and `StorageUnavailable` if the store fails.
    """
    if not _USERNAME.fullmatch(username):
        msg = "A username has 1 to 150 letters, digits, hyphens or underscores."
        raise InvalidRequest(msg)
    check_password(password)
    hashed = await passwords.hash(password)
    return await store.create_account(
        NewAccount(username=username, password_hash=hashed, is_admin=is_admin)
    )


def check_password(password: str) -> None:
    """Raise `InvalidRequest` unless `password` has 8 to 1,024 characters."""
    if not _MIN_PASSWORD <= len(password) <= _MAX_PASSWORD:
        msg = f"A password has {_MIN_PASSWORD} to {_MAX_PASSWORD} characters."
        raise InvalidRequest(msg)


class Authenticator:
    """Checks credentials (API keys, login tokens, passwords) and finds the account (`Principal`) they belong to.

    `store` has accounts and keys; `cache` has keys that were found in the store in the last minutes, so that not every
    request reads it. `throttle` limits login attempts per username and client address.
    """

    def __init__(
        self,
        store: IdentityStore,
        *,
        tokens: Tokens,
        passwords: Passwords,
        throttle: LoginThrottle,
        cache: KeyCache,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._passwords = passwords
        self._throttle = throttle
        self._cache = cache
        self._keys = Keys()

    async def authenticate(self, given: str | SessionToken | None) -> Principal:
        """The account that a credential belongs to.

        `given` is the whole value of the header `Authorization` (`Bearer <API key or login token>`) or the session
        cookie's token; None: the request has neither. While the database is unavailable, an API key that was found
        there in the last 15 minutes (`KeyCacheConfig.stale`) is accepted.

        Raises `NotAuthenticated`, with the reason, if `given` is None, malformed, unknown, expired or revoked; and
        `StorageUnavailable` if a key that is not cached cannot be looked up within two seconds.
        """
        if isinstance(given, SessionToken):
            return self._tokens.principal(given.value)
        credential = _bearer(given)
        if self._tokens.is_token(credential):
            return self._tokens.principal(credential)
        digest = self._keys.digest(credential)
        known = self._cache.get(digest)
        if known is not None:
            return known
        # Called before the look-up, so that `get` answers concurrent requests and only this one waits for the database.
        seen_lately = self._cache.without_database(digest)
        try:
            key = await self._valid_key(digest)
        except StorageUnavailable:
            if seen_lately is None:
                raise
            return seen_lately
        except NotAuthenticated:
            self._cache.forget(digest)
            raise
        principal = Principal(username=key.username, is_admin=key.is_admin)
        self._cache.put(digest, principal)
        return principal

    async def login(self, username: str, password: str, *, address: str = "") -> str:
        """Check a password and return a login token (JWT) for the account `username`, ignoring the case of the name.

        `address`: the client's IP address, for limits and a fair queue; empty if unknown. Raises `NotAuthenticated` for
        a wrong name or password, without naming which of them; `TooManyRequests`, with seconds to wait in
        `retry_after`, after too many attempts or while too many logins are waiting; and `StorageUnavailable` if the
        account cannot be read.
        """
        # No account has such a name, so the attempt is not recorded.
        if len(username) > _MAX_USERNAME or "\x00" in username:
            raise _wrong_login()
        network = network_of(address)
        self._throttle.admit(username, network)
        try:
            async with self._passwords.turn(network):
                found = await self._store.credentials(username)
                password_hash = None if found is None else found.password_hash
                right = await self._passwords.matches(password_hash, password)
        except TooManyRequests:  # no password was checked, so it does not count as an attempt
            self._throttle.withdraw(username, network)
            raise
        if found is None or not right:
            raise _wrong_login()
        self._throttle.succeeded(username, network)
        account = found.account
        return self._tokens.issue(Principal(username=account.username, is_admin=account.is_admin))

    async def _valid_key(self, digest: str) -> ApiKey:
        async with _bounded():
            key = await self._store.find_key(digest)
        if key is None:
            msg = f"{INCORRECT_KEY}: it is not known here."
            raise NotAuthenticated(msg)
        if key.revoked_at is not None:
            msg = f"{INCORRECT_KEY}: the key {key.id} has been revoked."
            raise NotAuthenticated(msg)
        # A valid key is accepted even if the database cannot be written at the moment.
        with suppress(StorageUnavailable):
            async with _bounded():
                await self._store.touch_key(key.id)
        return key


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """A context manager for a block of at most 2 seconds: after that, cancels it and raises `StorageUnavailable`."""
    try:
        async with asyncio.timeout(_STORE_SECONDS):
            yield
    except TimeoutError as error:
        msg = f"The database did not answer within {_STORE_SECONDS:g} s."
        raise StorageUnavailable(msg) from error


def _wrong_login() -> NotAuthenticated:
    return NotAuthenticated("Invalid credentials")


def _bearer(authorization: str | None) -> str:
    if authorization is None or not authorization.strip():
        msg = "The Authorization header is missing. Send: Authorization: Bearer <API key or token>"
        raise NotAuthenticated(msg)
    scheme, _, credential = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        msg = "The Authorization header is malformed. Send: Authorization: Bearer <key or token>"
        raise NotAuthenticated(msg)
    return credential.strip()
