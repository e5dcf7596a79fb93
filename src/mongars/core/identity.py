"""Accounts, API keys and the authenticated caller of a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The authenticated caller of a request. Everything the request stores belongs to `username`."""

    username: str
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user account. Names are unique regardless of case."""

    username: str
    is_admin: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """The data to create an account; the password is hashed already."""

    username: str
    password_hash: str = field(repr=False)
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An account, and the hash against which its password is verified at login."""

    account: Account
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A stored API key without the key itself; `id` identifies it in lists and commands.

    `last_used_at` is None for an unused key, `revoked_at` for one that is not revoked.
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
    """The data to store a new API key; of the key itself only `digest` is stored."""

    id: str
    username: str
    name: str
    digest: str = field(repr=False)
    is_admin: bool = False
