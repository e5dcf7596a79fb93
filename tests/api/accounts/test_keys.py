from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest

from mongars.api.credentials import Keys
from mongars.api.key_cache import KeyCache, KeyCacheConfig
from mongars.core.errors import (
    NotAuthenticated,
    NotFound,
    StorageUnavailable,
)
from mongars.core.identity import Principal
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from conftest import AuthSetup


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (None, "missing"),
        ("", "missing"),
        ("Basic YWRhOmFkYQ==", "malformed"),
        ("Bearer", "malformed"),
        ("Bearer   ", "malformed"),
        ("mg-0123456789ab-secret", "malformed"),
        ("Bearer mg-0123456789ab-secret", "not known"),
        ("Bearer näh", "not known"),
        ("Bearer a.b.c", "not known"),
    ],
)
async def test_the_error_for_bad_credentials_names_the_reason(
    auth: AuthSetup, header: str | None, said: str
) -> None:
    """A missing, malformed or unknown credential is refused with a message that says which of the three applies."""
    with pytest.raises(NotAuthenticated, match=said) as caught:
        await auth.authenticator.authenticate(header)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER  "])
async def test_a_key_stands_for_its_account(auth: AuthSetup, scheme: str) -> None:
    """A stored key sent as a bearer token authenticates as its account, with the key's own rights."""
    await auth.member(is_admin=True)
    plain, _ = await auth.key()
    found = await auth.authenticator.authenticate(f"{scheme} {plain}")
    assert found == Principal(username="ada", is_admin=False)
    admin, _ = await auth.key(is_admin=True)
    assert (await auth.who(admin)).is_admin


async def test_keys_look_as_documented_and_only_their_digest_is_kept(auth: AuthSetup) -> None:
    """A key has its documented format, its record holds only a SHA-256 digest, and no repr shows key or digest."""
    await auth.member()
    issued = Keys().issue("ada", "test")
    assert re.fullmatch(r"mg-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", issued.plaintext)
    assert issued.record.digest == hashlib.sha256(issued.plaintext.encode()).hexdigest()
    assert issued.plaintext not in repr(issued)
    assert issued.record.digest not in repr(issued)


async def test_a_revoked_key_stops_within_the_promised_time(auth: AuthSetup) -> None:
    """A key checked before its revocation is accepted for another 30 s, then refused as revoked."""
    await auth.member()
    plain, key_id = await auth.key()
    await auth.who(plain)
    await auth.store.revoke_key(key_id)
    await auth.clock.advance(29)
    assert (await auth.who(plain)).username == "ada"
    await auth.clock.advance(1)
    with pytest.raises(NotAuthenticated, match=f"{key_id} has been revoked"):
        await auth.who(plain)


async def test_a_known_key_works_while_the_database_is_away(auth: AuthSetup) -> None:
    """While the database is down, a recently checked key is accepted and an unchecked key gets `StorageUnavailable`."""
    await auth.member()
    known, _ = await auth.key()
    other, _ = await auth.key()
    await auth.who(known)
    await auth.database.aclose()
    assert (await auth.who(known)).username == "ada"
    with pytest.raises(StorageUnavailable):
        await auth.who(other)


async def test_a_known_key_is_believed_for_some_minutes_of_an_outage(auth: AuthSetup) -> None:
    """In a database outage, a checked key is accepted for 15 minutes, then gets `StorageUnavailable`."""
    await auth.member()
    plain, _ = await auth.key()
    await auth.who(plain)
    await auth.database.aclose()
    for _ in range(14):
        await auth.clock.advance(60)
        assert (await auth.who(plain)).username == "ada"
    await auth.clock.advance(61)
    with pytest.raises(StorageUnavailable):
        await auth.who(plain)


async def test_a_revoked_key_does_not_come_back_in_an_outage(auth: AuthSetup) -> None:
    """A key that the database reported as revoked is not accepted in a later database outage."""
    await auth.member()
    plain, key_id = await auth.key()
    await auth.who(plain)
    await auth.store.revoke_key(key_id)
    await auth.clock.advance(40)
    with pytest.raises(NotAuthenticated):
        await auth.who(plain)
    await auth.database.aclose()
    with pytest.raises(StorageUnavailable):
        await auth.who(plain)


async def test_a_key_works_on_a_database_that_cannot_be_written(auth: AuthSetup) -> None:
    """A key is accepted even if the time of its use cannot be written to the database."""
    await auth.member()
    plain, _ = await auth.key()
    async with auth.database.writing() as connection:
        await connection.exec_driver_sql("PRAGMA query_only=ON")
    assert (await auth.who(plain)).username == "ada"


async def test_the_use_of_a_key_is_noted(auth: AuthSetup) -> None:
    """The list of keys shows when each key was last used."""
    await auth.member()
    plain, _ = await auth.key()
    await auth.who(plain)
    (found,) = await auth.store.keys()
    assert found.last_used_at == auth.clock.now()


def test_the_cache_is_bounded() -> None:
    """A full key cache drops its oldest entry for each new one."""
    cache = KeyCache(ManualClock(), KeyCacheConfig(size=3))
    for number in range(10):
        cache.put(f"{number}", Principal(username=f"u{number}"))
    assert [cache.get(f"{n}") is not None for n in range(10)] == [False] * 7 + [True] * 3


async def test_a_key_without_an_account_is_refused(auth: AuthSetup) -> None:
    """Issuing a key for an account that does not exist fails."""
    with pytest.raises(NotFound):
        await auth.key("nobody")
