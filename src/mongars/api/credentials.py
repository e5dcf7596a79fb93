"""Creating and checking passwords, API keys and login tokens."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import secrets
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mongars.api.login_queue import LoginQueue
from mongars.core.errors import ConfigurationError, NotAuthenticated
from mongars.core.identity import NewApiKey, Principal

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mongars.core.clock import Clock

_KEY_PREFIX = "mg"
_MIN_SECRET = 32  # bytes; required of an HS256 key by RFC 7518
_MIN_PRESET_KEY = 16
_ALGORITHM = "HS256"
_TOKEN_DOTS = 2
_MOST_AT_ONCE = 2  # passwords
_MAX_SUBJECT = 1000
_LATEST = 1e12  # seconds; the year 33658
INCORRECT_KEY = "Incorrect API key provided"
"""Beginning of the message for an invalid credential: OpenAI's words, by which LiteLLM recognises a wrong key."""


class Passwords:
    """Password hashing with Argon2id (19 MiB, two passes, one lane: OWASP's minimum), about 30 ms of one core.

    The work runs in threads, at most two at a time (one on a machine of one or two cores), so that a burst of logins
    does not block the event loop, take every core, or use more than 40 MB.
    """

    def __init__(self, queue: LoginQueue | None = None) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        self._queue = queue or LoginQueue(running=max(1, min(_MOST_AT_ONCE, cores - 1)))
        # Checked for logins with an unknown name, so that they take as long as others.
        self._no_account = self._hasher.hash(secrets.token_urlsafe(32))

    def turn(self, address: str = "") -> AbstractAsyncContextManager[None]:
        """A context manager that holds one of the few places for password checks; entering it waits for a free place.

        `address`: the client's IP address, empty if unknown. The places are shared fairly between networks: an IPv4
        address, a /64 of IPv6 addresses, or all unknown addresses together. Raises `TooManyRequests` if no place is
        free for a minute, or if this login is removed because the queue is full: a random one of the network with the
        most logins in it, at its arrival or later.
        """
        return self._queue.turn(address)

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether `password` matches `password_hash`; None (there is no such account) takes as long and gives False.

        A malformed hash gives False, too. Call it inside the context that `turn` returns, which limits how many checks
        run at once.
        """
        right = await asyncio.to_thread(self._matches, password_hash or self._no_account, password)
        return right and password_hash is not None

    async def hash(self, password: str) -> str:
        """The salted Argon2id hash of `password`, for storage.

        Waits in the queue for one of the few places for password checks, like a login from an unknown address. Raises
        `TooManyRequests` if no place is free for a minute, or if this call is removed from the queue because that is
        full.
        """
        async with self.turn():
            return await asyncio.to_thread(self._hasher.hash, password)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (
            VerificationError,
            InvalidHashError,
        ):  # a wrong password, or a hash of another algorithm
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A new API key: `plaintext` is its text, shown to the user once and not stored.

    `record`, with the text's digest, is what is stored.
    """

    plaintext: str = field(repr=False)
    record: NewApiKey


class Keys:
    """Makes API keys `mg-<12 hex digits>-<43 characters>`, which are stored and found by their SHA-256.

    The last part has 256 random bits, which cannot be guessed. A slow, salted hash, which protects weak passwords,
    would only make every request slower. Keys are looked up by their digest: an attacker cannot choose a digest, so the
    time of a look-up reveals nothing. The hex digits identify a key in lists and logs.
    """

    def issue(self, username: str, name: str, *, is_admin: bool = False) -> IssuedKey:
        """A new random API key for the account `username`; `name` describes the key in lists. Stores nothing.

        `is_admin` gives it administrator's rights.
        """
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
        """An administrator's API key of the account `username`, with the text `plaintext` that the operator chose.

        `name` describes the key in lists. Stores nothing. Raises `ConfigurationError`, naming
        `MONGARS_BOOTSTRAP_API_KEY`, if the text has fewer than 16 characters, or others than visible ASCII characters.
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
        """The hexadecimal SHA-256 of an API key's text, under which the key is stored and looked up."""
        return hashlib.sha256(plaintext.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenConfig:
    """How `Tokens` makes login tokens: `secret` (32 bytes or more) signs them, and they are valid for `minutes`."""

    secret: str = field(repr=False)
    minutes: float = 60.0


class Tokens:
    """Makes and checks signed login tokens: JWTs (HS256) with the claims `sub` (username), `admin`, `iat` and `exp`.

    A token is accepted until it expires: a changed password or a lost administrator's role takes effect with the next
    login.
    """

    def __init__(self, config: TokenConfig, clock: Clock) -> None:
        """Raise `ConfigurationError`, naming `SECRET_KEY`, if the secret has less than 32 bytes."""
        if len(config.secret.encode()) < _MIN_SECRET:
            msg = (
                f"SECRET_KEY needs at least {_MIN_SECRET} bytes."
                " Make one with: openssl rand -hex 32"
            )
            raise ConfigurationError(msg)
        self._config = config
        self._clock = clock

    def issue(self, principal: Principal) -> str:
        """A signed login token for `principal`, valid for `TokenConfig.minutes` from now."""
        now = self._clock.now()
        claims = {
            "sub": principal.username,
            "admin": principal.is_admin,
            "iat": now,
            "exp": now + timedelta(minutes=self._config.minutes),
        }
        return jwt.encode(claims, self._config.secret, algorithm=_ALGORITHM)

    def is_token(self, candidate: str) -> bool:
        """Whether `candidate` has the form of a login token (JWT) and not of an API key. Does not verify it."""
        if candidate.count(".") != _TOKEN_DOTS:  # the common case, without an exception
            return False
        try:
            jwt.get_unverified_header(candidate)
        except _UNREADABLE:
            return False
        return True

    def principal(self, token: str) -> Principal:
        """The account (name and rights) in a login token.

        Raises `NotAuthenticated` if the token is malformed, wrongly signed, expired or not yet valid.
        """
        try:
            claims = jwt.decode(
                token,
                self._config.secret,
                algorithms=[_ALGORITHM],
                # Checked below against the injected clock.
                options={
                    "require": ["sub", "exp"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            subject, expires = _subject(claims["sub"]), _time(claims["exp"])
            begins = _time(claims.get("nbf", 0))
            _time(claims.get("iat", 0))
        except _UNREADABLE as error:
            msg = f"{INCORRECT_KEY}: the login token is not valid. Log in again."
            raise NotAuthenticated(msg) from error
        now = self._clock.now().timestamp()
        if expires <= now:
            msg = f"{INCORRECT_KEY}: the login token has expired. Log in again."
            raise NotAuthenticated(msg)
        if begins > now:
            msg = f"{INCORRECT_KEY}: the login token is not valid yet. Log in again."
            raise NotAuthenticated(msg)
        return Principal(username=subject, is_admin=claims.get("admin") is True)


_UNREADABLE = (jwt.InvalidTokenError, ValueError, TypeError, RecursionError)
"""The exceptions that parsing an invalid token can raise; deeply nested JSON raises `RecursionError`."""


def _subject(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_SUBJECT or "\x00" in value:
        msg = "the subject is no name"
        raise ValueError(msg)
    return value


def _time(value: object) -> float:
    """The time in a JWT's claim (NumericDate, RFC 7519) in Unix seconds; `ValueError` or `TypeError` if invalid."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = "a time is no number"
        raise TypeError(msg)
    if not abs(value) < _LATEST or math.isnan(value):
        msg = "a time is out of range"
        raise ValueError(msg)
    return float(value)
