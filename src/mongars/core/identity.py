"""Accounts, API keys and the authenticated caller of a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller. `username` is the owner of everything the call stores."""

    username: str
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A person who may log in. Names are unique whatever their case."""

    username: str
    is_admin: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """An account to be made; the password arrives hashed."""

    username: str
    password_hash: str = field(repr=False)
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An account with what its password is checked against."""

    account: Account
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of an API key; `id` is for people, the key itself is nowhere."""

    id: str
    username: str
    name: str
    is_admin: bool
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """An API key to be stored; `digest` is all that is kept of it."""

    id: str
    username: str
    name: str
    digest: str = field(repr=False)
    is_admin: bool = False
