"""Accounts, API keys and the authenticated caller of a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The authenticated user of a request. Everything the request stores belongs to `username`.

    `is_admin`: whether the request has administrator's rights.
    """

    username: str
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A stored user account: its user name, whether it is an administrator's, and when it was created.

    User names are unique regardless of case. `created_at` is timezone-aware, in UTC.
    """

    username: str
    is_admin: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """The data to create a user account; `password_hash` is a hash of the password, never the password."""

    username: str
    password_hash: str = field(repr=False)
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user account, and the hash against which a password given at login is verified."""

    account: Account
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """The record of a user's API key, without the key itself; `id` identifies it in lists and commands.

    `name` describes it for people. `is_admin`: whether requests with it have administrator's rights. `last_used_at` is
    None for an unused key, `revoked_at` for one that is not revoked.
    """

    id: str
    username: str
    name: str
    is_admin: bool
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """The data to store a new API key of a user; of the key itself only its hash, `digest`, is stored.

    `id` and `name` are those of `ApiKey`. `digest` is the SHA-256 in hexadecimal digits.
    """

    id: str
    username: str
    name: str
    digest: str = field(repr=False)
    is_admin: bool = False
