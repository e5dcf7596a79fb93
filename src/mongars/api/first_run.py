"""The first start of an installation: creating the first administrator."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mongars.api.credentials import Keys
from mongars.core.errors import ConfigurationError, Conflict
from mongars.core.identity import NewAccount

if TYPE_CHECKING:
    from mongars.api.accounts import IdentityStore
    from mongars.api.credentials import IssuedKey, Passwords
    from mongars.core.identity import ApiKey

ADMIN = "admin"
"""Username of the administrator that the first start creates."""

PRESET_HINT = "the key given in MONGARS_BOOTSTRAP_API_KEY"
"""The value of `FirstRun.api_key` if the operator chose the key, so that the key is not logged."""

_BOOTSTRAP_NAME = "bootstrap"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRun:
    """The credentials of the first administrator, just created. They are printed once and not stored in plain text.

    If the operator chose the API key, `api_key` is not the key but a text that names the variable it was given in.
    """

    username: str
    password: str = field(repr=False)
    api_key: str = field(repr=False)


async def bootstrap_admin(
    store: IdentityStore, passwords: Passwords, *, preset_key: str | None = None
) -> FirstRun | None:
    """Create the first administrator if there is none, and make sure that `preset_key` is a valid administrator's key.

    `preset_key` is the API key that the operator chose in `MONGARS_BOOTSTRAP_API_KEY`; None: a random key is created.
    While no administrator exists, this creates the account `admin` with a random password and one administrator's key,
    in one transaction, and returns both (instead of a preset key, a text that names the variable). If an administrator
    exists, it returns None, and stores `preset_key` if that is not stored yet. Of several processes that start at once,
    one creates the account; the others get None.

    Raises:
        ConfigurationError: `preset_key` is too short, malformed or revoked, or has no administrator's rights.
        Conflict: There is an account `admin` that is no administrator.
        StorageUnavailable: The store fails; an account without its key is never left behind.
    """
    keys = Keys()
    preset = None if preset_key is None else keys.preset(preset_key, ADMIN, name=_BOOTSTRAP_NAME)
    first = None
    if not await store.has_admin():
        first = await _first_run(
            store, passwords, preset or keys.issue(ADMIN, "first run", is_admin=True)
        )
    if preset is None:
        return first
    await _ensure_preset(store, preset)
    return None if first is None else replace(first, api_key=PRESET_HINT)


async def _first_run(
    store: IdentityStore, passwords: Passwords, issued: IssuedKey
) -> FirstRun | None:
    password = secrets.token_urlsafe(18)
    hashed = await passwords.hash(password)
    account = NewAccount(username=ADMIN, password_hash=hashed, is_admin=True)
    try:
        await store.create_account(account, key=issued.record)
    except Conflict:
        if await store.has_admin():  # another process was faster
            return None
        raise
    return FirstRun(username=ADMIN, password=password, api_key=issued.plaintext)


async def _ensure_preset(store: IdentityStore, preset: IssuedKey) -> None:
    found = await store.find_key(preset.record.digest)
    if found is None:
        found = await _add_preset(store, preset)
    if found.revoked_at is not None:
        msg = "MONGARS_BOOTSTRAP_API_KEY names a key that was revoked. Choose a new one."
        raise ConfigurationError(msg)
    if not found.is_admin:
        msg = (
            "MONGARS_BOOTSTRAP_API_KEY names an existing key that is not an administrator's."
            " Choose a new one."
        )
        raise ConfigurationError(msg)


async def _add_preset(store: IdentityStore, preset: IssuedKey) -> ApiKey:
    admins = [account.username for account in await store.accounts() if account.is_admin]
    owner = ADMIN if ADMIN in admins else admins[0]
    try:
        return await store.create_key(replace(preset.record, username=owner))
    except Conflict:
        found = await store.find_key(preset.record.digest)
        if found is None:
            raise
        return found  # another process was faster
