"""Stored turns of conversations: order, owners, expiry, texts, times and concurrent writers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import StatementError

from mongars.conversation.history import NewTurn
from mongars.core.clock import SystemClock
from mongars.core.errors import InvalidRequest
from mongars.persistence.conversations import SqlConversations
from mongars.persistence.database import Database
from mongars.persistence.migrate import upgrade
from mongars.persistence.tables import conversation_history

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.persistence.config import DatabaseConfig
    from mongars.testing.manual_clock import ManualClock


def turn(query: str, *, user: str = "ada", session: str | None = None) -> NewTurn:
    """A turn with the response `re: ` and the query."""
    return NewTurn(user_id=user, query=query, response=f"re: {query}", session_id=session)


async def queries(history: SqlConversations, user: str = "ada", **options: object) -> list[str]:
    """The queries of the stored turns, newest first."""
    return [t.query for t in await history.latest(user, **{"limit": 100, **options})]


async def test_turns_come_back_newest_first(database: Database, clock: ManualClock) -> None:
    """Stored turns are returned unchanged, newest first, and no more than `limit`."""
    history = SqlConversations(database, clock)
    stored = []
    for number in range(5):
        stored.append(await history.append(turn(f"q{number}", session="s")))
        await clock.advance(1)
    assert await history.latest("ada", limit=3) == tuple(stored[:1:-1])
    assert stored[0].timestamp == datetime(2025, 1, 8, 12, 0, tzinfo=UTC)
    assert stored[0].timestamp.tzinfo is UTC
    assert (stored[0].response, stored[0].session_id) == ("re: q0", "s")


async def test_people_and_sessions_are_kept_apart(database: Database, clock: ManualClock) -> None:
    """Users see only their own turns: those of a session if one is given, otherwise all."""
    history = SqlConversations(database, clock)
    await history.append(turn("one", session="a"))
    await history.append(turn("two", session="b"))
    await history.append(turn("three"))
    await history.append(turn("other", user="bob", session="a"))
    assert await queries(history) == ["three", "two", "one"]
    assert await queries(history, session_id="a") == ["one"]
    assert await queries(history, "bob") == ["other"]
    assert await queries(history, "eve") == []


async def test_expired_turns_are_not_shown(database: Database, clock: ManualClock) -> None:
    """A turn with a keeping time of one hour is returned for exactly one hour."""
    history = SqlConversations(database, clock, keep=timedelta(hours=1))
    stored = await history.append(turn("secret"))
    assert stored.expires_at == clock.now() + timedelta(hours=1)
    await clock.advance(3599)
    assert await queries(history) == ["secret"]
    await clock.advance(1)
    assert await queries(history) == []


async def test_every_text_survives(database: Database, clock: ManualClock) -> None:
    """Any text is returned as it was stored, except that NUL, which PostgreSQL cannot store, becomes U+FFFD."""
    history = SqlConversations(database, clock)
    await history.append(turn("naïve 日本 🦙 'quote' %s :name\r\n\ta\x00b", session="s\x00"))
    stored = ["naïve 日本 🦙 'quote' %s :name\r\n\ta\ufffdb"]
    assert await queries(history) == stored
    assert await queries(history, session_id="s\x00") == stored
    assert await queries(history, session_id="s\ufffd") == stored


async def test_rows_of_the_earlier_program_are_readable(
    database: Database, clock: ManualClock
) -> None:
    """Rows of the earlier program without query, response or session are returned as turns with empty texts."""
    async with database.writing() as connection:
        await connection.execute(text("INSERT INTO conversation_history (user_id) VALUES ('ada')"))
    (found,) = await SqlConversations(database, clock).latest("ada", limit=1)
    assert (found.query, found.response, found.session_id) == ("", "", None)
    assert found.timestamp.tzinfo is UTC
    assert abs(found.timestamp - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_must_be_positive(database: Database, clock: ManualClock, limit: int) -> None:
    """A limit of 0 or less is refused."""
    with pytest.raises(InvalidRequest, match="limit must be positive"):
        await SqlConversations(database, clock).latest("ada", limit=limit)


async def test_no_embedding_is_null(database: Database) -> None:
    """A turn without an embedding is stored as SQL NULL, not as JSON null or an empty list."""
    async with database.writing() as connection:
        await connection.execute(insert(conversation_history).values(user_id="ada", vector=None))
        query = text("SELECT count(*) FROM conversation_history WHERE vector IS NULL")
        assert await connection.scalar(query) == 1


async def test_times_are_utc_whatever_their_zone(database: Database) -> None:
    """A time in another zone is stored as the same moment in UTC; a time without a zone is refused."""
    east = datetime(2026, 1, 1, 3, 0, tzinfo=timezone(timedelta(hours=3)))
    column = conversation_history.c.timestamp
    async with database.writing() as connection:
        await connection.execute(insert(conversation_history).values(timestamp=east))
        found = (await connection.execute(column.table.select())).mappings().one()["timestamp"]
    assert (found, found.tzinfo) == (datetime(2026, 1, 1, tzinfo=UTC), UTC)
    with pytest.raises(StatementError, match="no time zone"):
        async with database.writing() as connection:
            await connection.execute(
                insert(conversation_history).values(timestamp=east.replace(tzinfo=None))
            )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("processes", [1, 5], ids=["one pool", "five pools"])
async def test_simultaneous_writers_lose_nothing(
    kind: str, processes: int, make_config: Callable[[str], DatabaseConfig]
) -> None:
    """Ten concurrent writers of 25 turns each leave 250 turns, with one shared pool as with five pools."""
    config = make_config(kind)
    upgrade(config)
    databases = [Database(config) for _ in range(processes)]

    async def write(number: int) -> None:
        history = SqlConversations(databases[number % processes], SystemClock())
        for count in range(25):
            await history.append(turn(f"{number}-{count}"))
            assert await history.latest("ada", limit=1)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(write(number))
    found = await queries(SqlConversations(databases[0], SystemClock()), limit=1000)
    for database in databases:
        await database.aclose()
    assert sorted(found) == sorted(f"{n}-{c}" for n in range(10) for c in range(25))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_simultaneous_changes_of_one_row_lose_nothing(
    kind: str, make_config: Callable[[str], DatabaseConfig]
) -> None:
    """250 concurrent read-modify-write transactions over five pools lose no update."""
    config = make_config(kind)
    upgrade(config)
    databases = [Database(config) for _ in range(5)]
    lock = " FOR UPDATE" if kind == "postgresql" else ""
    async with databases[0].writing() as connection:
        await connection.execute(text("INSERT INTO emotion_trends (id, emotion) VALUES (1, '0')"))

    async def count(database: Database) -> None:
        for _ in range(25):
            async with database.writing() as connection:
                query = text(f"SELECT emotion FROM emotion_trends WHERE id = 1{lock}")  # noqa: S608
                seen = int(str(await connection.scalar(query)))
                update = text("UPDATE emotion_trends SET emotion = :next WHERE id = 1")
                await connection.execute(update, {"next": str(seen + 1)})

    async with asyncio.TaskGroup() as group:
        for database in databases * 2:
            group.create_task(count(database))
    async with databases[0].reading() as connection:
        assert await connection.scalar(text("SELECT emotion FROM emotion_trends")) == "250"
    for database in databases:
        await database.aclose()
