"""The history port: what the chat use case needs from the storage of conversations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """A finished exchange: the person's own words and the complete answer to them."""

    user_id: str
    query: str = field(repr=False)
    response: str = field(repr=False)
    session_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A remembered exchange. Times are timezone-aware UTC; `expires_at` None means kept."""

    id: int
    user_id: str
    query: str = field(repr=False)
    response: str = field(repr=False)
    timestamp: datetime
    session_id: str | None = None
    expires_at: datetime | None = None


class History(Protocol):
    """Remembers turns; one person's turns are never shown to another."""

    async def append(self, turn: NewTurn) -> Turn:
        """Store one turn durably. Raises `StorageUnavailable`; then nothing was stored."""
        ...

    async def latest(
        self, user_id: str, *, limit: int, session_id: str | None = None
    ) -> tuple[Turn, ...]:
        """At most `limit` unexpired turns, newest first; of all sessions if none is named.

        Raises `InvalidRequest` unless `limit` is positive, and `StorageUnavailable`.
        """
        ...
