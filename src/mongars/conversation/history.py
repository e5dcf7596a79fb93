"""The interface of the storage of conversations, as the chat use case needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """A turn of a conversation to be stored: the user's message `query`, unchanged, and the complete answer `response`.

    `user_id` is the user name. `session_id` identifies the conversation; None: none.
    """

    user_id: str
    query: str = field(repr=False)
    response: str = field(repr=False)
    session_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A stored turn of a conversation: the user's message `query` and the answer `response`.

    `id` is its number in the database, `user_id` the user name, `timestamp` when the turn was stored. `session_id`
    identifies the conversation; None: none. Times are timezone-aware UTC; `expires_at` None: the turn never expires.
    """

    id: int
    user_id: str
    query: str = field(repr=False)
    response: str = field(repr=False)
    timestamp: datetime
    session_id: str | None = None
    expires_at: datetime | None = None


class History(Protocol):
    """The interface of the storage of conversations; turns of one user are never returned for another."""

    async def append(self, turn: NewTurn) -> Turn:
        """Store one turn durably; returns it with its id and time. Raises `StorageUnavailable` if it was not stored."""
        ...

    async def latest(
        self, user_id: str, *, limit: int, session_id: str | None = None
    ) -> tuple[Turn, ...]:
        """The newest turns of the user that have not expired, at most `limit`, newest first.

        `user_id` is the user name. `session_id`: only the turns of that conversation; None: of all.

        Raises `InvalidRequest` unless `limit` is positive, and `StorageUnavailable` if the history cannot be read.
        """
        ...
