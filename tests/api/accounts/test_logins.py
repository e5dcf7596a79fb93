from __future__ import annotations

import asyncio
import base64
import hmac
import json
import math
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import jwt
import pytest

from mongars.api.accounts import Authenticator, create_account
from mongars.api.credentials import Passwords, TokenConfig, Tokens
from mongars.api.key_cache import KeyCache
from mongars.api.login_queue import LoginQueue
from mongars.api.throttle import LoginThrottle, ThrottleConfig
from mongars.core.errors import (
    ConfigurationError,
    InvalidRequest,
    NotAuthenticated,
    TooManyRequests,
)
from mongars.core.identity import NewAccount, Principal
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from conftest import AuthSetup

SECRET = "a secret of more than thirty-two bytes"


async def test_a_login_yields_a_token_that_authenticates(auth: AuthSetup) -> None:
    """A login token authenticates as its account for 3600 s; then it is refused as expired."""
    await auth.member("Ada", is_admin=True)
    token = await auth.authenticator.login("ada", "correct horse")
    assert await auth.who(token) == Principal(username="Ada", is_admin=True)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["admin"]) == ("Ada", True)
    assert claims["exp"] - claims["iat"] == 3600
    await auth.clock.advance(3599)
    await auth.who(token)
    await auth.clock.advance(1)
    with pytest.raises(NotAuthenticated, match="expired"):
        await auth.who(token)


async def test_forged_tokens_are_refused(auth: AuthSetup) -> None:
    """A token with a foreign signature, without a signature or with missing or mistyped claims is refused."""
    claims = {"sub": "ada", "admin": True, "exp": auth.clock.now() + timedelta(hours=1)}
    forged = [
        jwt.encode(claims, "another secret of thirty-two bytes!", algorithm="HS256"),
        jwt.encode(claims, None, algorithm="none"),
        jwt.encode({"sub": "ada"}, SECRET, algorithm="HS256"),
        jwt.encode({**claims, "sub": 7}, SECRET, algorithm="HS256"),
    ]
    for token in forged:
        with pytest.raises(NotAuthenticated, match="not valid"):
            await auth.who(token)


@pytest.mark.parametrize(
    "value", ["soon", [], {}, None, True, 10**400, -(10**400), math.nan, math.inf, ""]
)
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "sub"])
async def test_malformed_claims_are_refused(auth: AuthSetup, claim: str, value: object) -> None:
    """A correctly signed token with a malformed claim is refused as invalid credentials, not a server error."""
    claims = {"sub": "ada", "exp": auth.clock.now().timestamp() + 3600, claim: value}
    if claim == "sub" and value == "soon":
        claims["sub"] = "a" * 5000
    token = _signed(json.dumps(claims))
    with pytest.raises(NotAuthenticated):
        await auth.who(token)


@pytest.mark.parametrize("payload", ["7", "[]", '"x"', "[" * 8000, "{", ""])
async def test_payloads_that_are_no_claims_are_refused(auth: AuthSetup, payload: str) -> None:
    """A correctly signed token whose payload is no JSON object, or is nested very deeply, is refused."""
    with pytest.raises(NotAuthenticated):
        await auth.who(_signed(payload))


@pytest.mark.parametrize("header", ["[" * 8000, '{"alg":[]}', '{"alg":"HS256","kid":7}', "7", "x"])
async def test_unreadable_token_headers_are_refused(auth: AuthSetup, header: str) -> None:
    """A token with an unreadable header is refused as invalid credentials, not answered with a server error."""
    with pytest.raises(NotAuthenticated):
        await auth.who(f"{_encoded(header)}.{_encoded('{}')}.{_encoded('x')}")


def _signed(payload: str) -> str:
    signed = f"{_encoded(json.dumps({'alg': 'HS256', 'typ': 'JWT'}))}.{_encoded(payload)}"
    digest = hmac.digest(SECRET.encode(), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("username", "password"), [("ada", "wrong horse"), ("bob", "correct horse"), ("ada", "")]
)
async def test_a_wrong_login_does_not_tell_which_half_is_wrong(
    auth: AuthSetup, username: str, password: str
) -> None:
    """A login with an unknown name and one with a wrong password get the same error message."""
    await auth.member()
    with pytest.raises(NotAuthenticated) as caught:
        await auth.authenticator.login(username, password)
    assert str(caught.value) == "Invalid credentials"


async def test_a_hash_of_another_kind_is_a_wrong_password(auth: AuthSetup) -> None:
    """A login to an account whose password hash has an unsupported format is refused as invalid credentials."""
    await auth.store.create_account(NewAccount(username="old", password_hash="$2b$12$abc"))
    with pytest.raises(NotAuthenticated, match="Invalid credentials"):
        await auth.authenticator.login("old", "anything")


async def test_an_unknown_name_costs_as_much_as_a_known_one() -> None:
    """Checking a password takes about as much CPU time without a stored hash as with one, and always fails."""
    passwords = Passwords()
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.matches(stored, "correct horse")
    assert not await passwords.matches(stored, "wrong")
    spent = []
    for subject in (stored, None):
        began = time.process_time()  # CPU time, independent of the machine's other load
        for _ in range(5):
            assert not await passwords.matches(subject, "wrong")
        spent.append(time.process_time() - began)
    assert 0.25 < spent[1] / spent[0] < 4


async def test_guessing_is_slowed_down(auth: AuthSetup) -> None:
    """After five failed logins, further logins to that name get 429 for 60 s, even with the right password."""
    await auth.member()
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            await auth.authenticator.login("ada", "wrong horse")
    with pytest.raises(TooManyRequests, match="Too many login attempts") as caught:
        await auth.authenticator.login("ADA", "correct horse")
    assert caught.value.retry_after == 60.0
    await auth.clock.advance(60)
    assert await auth.authenticator.login("ada", "correct horse")


async def test_simultaneous_guesses_count_from_their_beginning(auth: AuthSetup) -> None:
    """Twelve logins at once get no more than the five attempts that consecutive logins get."""
    await auth.member()

    async def guess() -> str:
        try:
            await auth.authenticator.login("ada", "wrong horse")
        except (NotAuthenticated, TooManyRequests) as error:
            return error.code
        return "in"

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(guess()) for _ in range(12)]
    codes = [task.result() for task in tasks]
    assert (codes.count("not_authenticated"), codes.count("too_many_requests")) == (5, 7)


async def test_a_success_clears_the_count(auth: AuthSetup) -> None:
    """A successful login resets the count of failed attempts."""
    await auth.member()
    for _ in range(3):
        for _ in range(4):
            with pytest.raises(NotAuthenticated):
                await auth.authenticator.login("ada", "wrong horse")
        assert await auth.authenticator.login("ada", "correct horse")


async def test_a_storm_of_logins_is_bounded() -> None:
    """Of 40 logins at once, one is checked, four wait and 35 get 429; afterwards logins work again."""
    queue = LoginQueue(running=1, waiting=4)

    async def check() -> float | None:
        try:
            async with queue.turn("10.0.0.1"):
                await asyncio.sleep(0)  # noqa: TID251 - the check
        except TooManyRequests as error:
            return error.retry_after
        return None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(check()) for _ in range(40)]
    waits = [task.result() for task in tasks]
    assert (waits.count(None), waits.count(1.0)) == (5, 35)
    assert await check() is None


async def test_leaving_the_queue_makes_room() -> None:
    """A login that is cancelled while running or waiting frees its place in the login queue."""
    queue = LoginQueue(running=1, waiting=4)

    async def check() -> None:
        async with queue.turn("10.0.0.1"):
            await asyncio.sleep(1)  # noqa: TID251 - runs until cancelled

    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(check()) for _ in range(5)]
            await asyncio.sleep(0)  # noqa: TID251 - now they wait
            for task in tasks:
                task.cancel()
    async with queue.turn("10.0.0.1"):
        pass


async def test_a_flood_displaces_no_login_from_other_addresses() -> None:
    """While one address fills the login queue, logins from other addresses are checked, the first of them early."""
    queue, order = LoginQueue(running=1, waiting=20), []

    async def check(address: str) -> None:
        with suppress(TooManyRequests):
            async with queue.turn(address):
                order.append(address)
                await asyncio.sleep(0)  # noqa: TID251 - the check

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(check("10.0.0.1"))
        await asyncio.sleep(0)  # noqa: TID251 - now they wait
        for address in ("10.0.0.2", "2001:db8::1", "2001:db8::2"):
            group.create_task(check(address))
    assert {"10.0.0.2", "2001:db8::1", "2001:db8::2"} <= set(order)
    assert order.index("10.0.0.2") <= 4
    assert order.count("10.0.0.1") <= 22


async def test_at_the_same_address_a_random_login_is_refused() -> None:
    """When one address overfills the login queue, a login chosen at random is refused, not always the newest."""
    queue, entered = LoginQueue(running=1, waiting=5, choose=lambda _: 0), []

    async def check(number: int) -> None:
        with suppress(TooManyRequests):
            async with queue.turn("10.0.0.1"):
                entered.append(number)
                await asyncio.sleep(0)  # noqa: TID251 - the check

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(check(number))
    assert entered == [0, 15, 16, 17, 18, 19]


async def test_an_attempt_that_was_not_checked_does_not_count(auth: AuthSetup) -> None:
    """A login refused because the login queue was full does not count as a failed attempt."""
    await auth.member()
    queue = LoginQueue(running=1, waiting=0)
    authenticator = Authenticator(
        auth.store,
        tokens=auth.tokens,
        passwords=Passwords(queue),
        throttle=LoginThrottle(auth.clock),
        cache=KeyCache(auth.clock),
    )
    async with queue.turn():
        for _ in range(6):
            with pytest.raises(TooManyRequests, match="at this moment"):
                await authenticator.login("ada", "correct horse")
    assert await authenticator.login("ada", "correct horse")


async def test_guessing_elsewhere_does_not_lock_the_owner_out(auth: AuthSetup) -> None:
    """While an account is locked by failed logins from other addresses, an address that logged in before still can."""
    await auth.member()
    await auth.authenticator.login("ada", "correct horse", address="10.0.0.1")
    for number in range(2, 8):
        for _ in range(5):
            with pytest.raises(NotAuthenticated):
                await auth.authenticator.login("ada", "wrong", address=f"10.0.0.{number}")
        with pytest.raises(TooManyRequests):
            await auth.authenticator.login("ada", "wrong", address=f"10.0.0.{number}")
    with pytest.raises(TooManyRequests):
        await auth.authenticator.login("ada", "correct horse", address="10.0.0.99")
    assert await auth.authenticator.login("ada", "correct horse", address="10.0.0.1")


@pytest.mark.parametrize("username", ["a" * 151, "ada\x00"], ids=["long", "NUL"])
async def test_impossible_names_are_not_remembered(auth: AuthSetup, username: str) -> None:
    """Logins with a name that no account can have always get the same error and are not counted."""
    for _ in range(6):
        with pytest.raises(NotAuthenticated, match="Invalid credentials"):
            await auth.authenticator.login(username, "correct horse")


def test_the_throttles_memory_is_bounded() -> None:
    """The throttle counts attempts only for the most recently used names, up to its limit."""
    throttle = LoginThrottle(ManualClock(), ThrottleConfig(attempts=1, names=2))
    for name in ("one", "two", "three"):
        throttle.admit(name)
    throttle.admit("one")
    for name in ("three", "one"):
        with pytest.raises(TooManyRequests):
            throttle.admit(name)


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("", "long enough"),
        ("a b", "long enough"),
        ("ada\n", "long enough"),
        ("a" * 151, "long enough"),
        ("ada", "short"),
        ("ada", "x" * 1025),
    ],
)
async def test_unusable_names_and_passwords_are_refused(
    auth: AuthSetup, username: str, password: str
) -> None:
    """An account whose name or password breaks the documented rules is not created."""
    with pytest.raises(InvalidRequest):
        await create_account(
            auth.store, auth.passwords, username=username, password=password, is_admin=False
        )
    assert await auth.store.accounts() == ()


def test_a_weak_signing_secret_stops_the_start() -> None:
    """A short signing secret is refused with an error that names `SECRET_KEY` and does not show the secret."""
    with pytest.raises(ConfigurationError, match="SECRET_KEY") as caught:
        Tokens(TokenConfig(secret="hunter2"), ManualClock())
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(TokenConfig(secret="hunter2"))
