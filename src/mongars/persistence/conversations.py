"""The history of conversations in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, or_, select

from mongars.conversation.history import History, Turn
from mongars.core.errors import InvalidRequest
from mongars.persistence.tables import conversation_history as table

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import RowMapping

    from mongars.conversation.history import NewTurn
    from mongars.core.clock import Clock
    from mongars.persistence.database import Database

_COLUMNS = (
    table.c.id,
    table.c.user_id,
    table.c.query,
    table.c.response,
    table.c.timestamp,
    table.c.session_id,
    table.c.expires_at,
)


class SqlConversations(History):
    """Stores conversation turns (message and answer) in the table `conversation_history`.

    Turns expire, and are not returned any more, when `keep` (a `timedelta`) has passed since they were stored; None:
    never. Expired turns are not deleted here.
    """

    def __init__(self, database: Database, clock: Clock, *, keep: timedelta | None = None) -> None:
        self._database = database
        self._clock = clock
        self._keep = keep

    async def append(self, turn: NewTurn) -> Turn:
        """Store one turn and return it with its id and time. Raises `StorageUnavailable` if the database fails.

        If the calling task is cancelled while it waits, the turn is stored nevertheless.
        """
        return await self._database.finish(self._insert(turn))

    async def latest(
        self, user_id: str, *, limit: int, session_id: str | None = None
    ) -> tuple[Turn, ...]:
        """The last `limit` turns of the account `user_id` that have not expired, newest first.

        `session_id`: only turns of this session; None: of all sessions. Raises `InvalidRequest` unless `limit` is
        positive, and `StorageUnavailable` if the database fails.
        """
        if limit <= 0:
            msg = "limit must be positive"
            raise InvalidRequest(msg)
        now = self._clock.now()
        statement = (
            select(*_COLUMNS)
            .where(table.c.user_id == user_id)
            .where(or_(table.c.expires_at.is_(None), table.c.expires_at > now))
            .order_by(table.c.id.desc())
            .limit(limit)
        )
        if session_id is not None:
            statement = statement.where(table.c.session_id == _storable(session_id))
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return tuple(_turn(row) for row in rows)

    async def _insert(self, turn: NewTurn) -> Turn:
        now = self._clock.now()
        expires = None if self._keep is None else now + self._keep
        statement = (
            insert(table)
            .values(
                user_id=turn.user_id,
                query=_storable(turn.query),
                response=_storable(turn.response),
                session_id=None if turn.session_id is None else _storable(turn.session_id),
                timestamp=now,
                expires_at=expires,
            )
            .returning(*_COLUMNS)
        )
        async with self._database.writing() as connection:
            row = (await connection.execute(statement)).mappings().one()
        return _turn(row)


def _turn(row: RowMapping) -> Turn:
    return Turn(
        id=row["id"],
        user_id=row["user_id"],
        query=row["query"] or "",  # rows of earlier versions may lack one half
        response=row["response"] or "",
        timestamp=row["timestamp"],
        session_id=row["session_id"],
        expires_at=row["expires_at"],
    )


def _storable(text: str) -> str:
    """`text` with the replacement character (U+FFFD) for each NUL, which PostgreSQL cannot store."""
    return text.replace("\x00", "\ufffd")
