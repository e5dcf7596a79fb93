"""Passwords, API keys and tokens: how each is made, stored and checked."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mongars.core.errors import ConfigurationError, NotAuthenticated, TooManyRequests
from mongars.core.identity import NewApiKey, Principal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock

_KEY_PREFIX = "mg"
_MIN_SECRET = 32  # bytes; RFC 7518 asks as much of an HS256 key
_MIN_PRESET_KEY = 16
_ALGORITHM = "HS256"
_TOKEN_DOTS = 2
_MAX_WAITING = 16  # passwords; the last of them waits a quarter of a second
_RETRY_SECONDS = 1.0


class Passwords:
    """Argon2id with 19 MiB, two passes and one lane: OWASP's minimum, about 30 ms of one core.

    The work runs in a thread, two at a time, so that a burst of logins takes neither the event
    loop nor more than 40 MB. A few more wait; beyond those, both methods raise `TooManyRequests`,
    so that whoever comes in with the storm is told at once instead of after half a minute.
    """

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._slots = asyncio.Semaphore(2)
        self._waiting = 0
        # What a login for an unknown name is checked against, to take as long as any other.
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """The salted hash to store."""
        async with self._slot():
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is right. None, for no such account, takes as long and is False."""
        async with self._slot():
            right = await asyncio.to_thread(self._matches, password_hash or self._nobody, password)
        return right and password_hash is not None

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._waiting >= _MAX_WAITING:
            msg = "Too many logins at this moment. Try again in a second."
            raise TooManyRequests(msg, retry_after=_RETRY_SECONDS)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):  # wrong, or hashed by something else
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A fresh API key. `plaintext` is to be shown once, now; only `record` is ever stored."""

    plaintext: str = field(repr=False)
    record: NewApiKey


class Keys:
    """API keys: `mg-<12 hex digits>-<43 characters>`, stored and found by their SHA-256.

    The last part carries 256 random bits. Nobody can guess that, so a slow, salted hash, there to
    make guessing weak passwords expensive, would only make every request expensive. Keys are
    found by the digest of all of them: whoever tries keys cannot steer a digest, so the time a
    look-up takes tells nothing. The hex digits name a key in lists and logs.
    """

    def issue(self, username: str, name: str, *, is_admin: bool = False) -> IssuedKey:
        """Make a new key for that account."""
        key_id = secrets.token_hex(6)
        plaintext = f"{_KEY_PREFIX}-{key_id}-{secrets.token_urlsafe(32)}"
        record = NewApiKey(
            id=key_id,
            username=username,
            name=name,
            digest=self.digest(plaintext),
            is_admin=is_admin,
        )
        return IssuedKey(plaintext=plaintext, record=record)

    def preset(self, plaintext: str, username: str, *, name: str) -> IssuedKey:
        """An administrator's key the operator chose, in whatever format.

        Raises `ConfigurationError`, naming `MONGARS_BOOTSTRAP_API_KEY`, if it is too short to
        withstand guessing or cannot be sent in a header.
        """
        if len(plaintext) < _MIN_PRESET_KEY:
            msg = (
                f"MONGARS_BOOTSTRAP_API_KEY has {len(plaintext)} characters; it needs at least"
                f" {_MIN_PRESET_KEY}. Make one with: openssl rand -hex 32"
            )
            raise ConfigurationError(msg)
        if not all("!" <= character <= "~" for character in plaintext):
            msg = "MONGARS_BOOTSTRAP_API_KEY may hold visible ASCII characters only, no spaces."
            raise ConfigurationError(msg)
        issued = self.issue(username, name, is_admin=True)
        record = replace(issued.record, digest=self.digest(plaintext))
        return IssuedKey(plaintext=plaintext, record=record)

    def digest(self, plaintext: str) -> str:
        """What is stored of a key, and what it is found by."""
        return hashlib.sha256(plaintext.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenConfig:
    """How login tokens are signed and how many minutes they live."""

    secret: str = field(repr=False)
    minutes: float = 60.0


class Tokens:
    """Signed login tokens (JWT, HS256) with `sub`, `admin`, `iat` and `exp`.

    A token is believed until it expires: a changed password or a lost administrator's role takes
    effect with the next login.
    """

    def __init__(self, config: TokenConfig, clock: Clock) -> None:
        """Raises `ConfigurationError`, naming `SECRET_KEY`, for a secret under 32 bytes."""
        if len(config.secret.encode()) < _MIN_SECRET:
            msg = (
                f"SECRET_KEY needs at least {_MIN_SECRET} bytes."
                " Make one with: openssl rand -hex 32"
            )
            raise ConfigurationError(msg)
        self._config = config
        self._clock = clock

    def issue(self, principal: Principal) -> str:
        """A token for that person, valid from now."""
        now = self._clock.now()
        claims = {
            "sub": principal.username,
            "admin": principal.is_admin,
            "iat": now,
            "exp": now + timedelta(minutes=self._config.minutes),
        }
        return jwt.encode(claims, self._config.secret, algorithm=_ALGORITHM)

    def is_token(self, candidate: str) -> bool:
        """Whether that is a token at all, ours or not, rather than an API key."""
        if candidate.count(".") != _TOKEN_DOTS:  # the common case, without an exception
            return False
        try:
            jwt.get_unverified_header(candidate)
        except jwt.InvalidTokenError:
            return False
        return True

    def principal(self, token: str) -> Principal:
        """Whom the token stands for. Raises `NotAuthenticated`, saying what is wrong with it."""
        try:
            claims = jwt.decode(
                token,
                self._config.secret,
                algorithms=[_ALGORITHM],
                # Checked below, against our own clock.
                options={"require": ["sub", "exp"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            msg = "The login token is not valid. Log in again."
            raise NotAuthenticated(msg) from error
        if claims["exp"] <= self._clock.now().timestamp():
            msg = "The login token has expired. Log in again."
            raise NotAuthenticated(msg)
        return Principal(username=claims["sub"], is_admin=claims.get("admin") is True)
