"""The interface of the storage of conversations, as the chat use case needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """A completed turn to be stored: the user's message, unchanged, and the complete answer to it."""

    user_id: str
    query: str = field(repr=False)
    response: str = field(repr=False)
    session_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A stored turn. Times are timezone-aware UTC; `expires_at` None means that it never expires."""

    id: int
    user_id: str
    query: str = field(repr=False)
    response: str = field(repr=False)
    timestamp: datetime
    session_id: str | None = None
    expires_at: datetime | None = None


class History(Protocol):
    """Stores the turns of conversations; the turns of one user are never returned for another."""

    async def append(self, turn: NewTurn) -> Turn:
        """Store one turn durably; returns it with id and time. Raises `StorageUnavailable` if it was not stored."""
        ...

    async def latest(
        self, user_id: str, *, limit: int, session_id: str | None = None
    ) -> tuple[Turn, ...]:
        """At most `limit` unexpired turns of the user, newest first; `session_id` None means all sessions.

        Raises `InvalidRequest` unless `limit` is positive, and `StorageUnavailable` if the history cannot be read.
        """
        ...
