"""Fakes for the chat use case: a clock, a history and a generator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mongars.conversation.history import History, NewTurn, Turn
from mongars.core.errors import ContextLengthExceeded, MongarsError, StorageUnavailable
from mongars.core.generation import Chunk, GenerationRequest, Origin, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

USAGE = Usage(prompt_tokens=5, completion_tokens=2)
WHOLE = (Chunk(text="Hel"), Chunk(text="lo"), Chunk(finish_reason="stop"), Chunk(usage=USAGE))


class SteppingClock:
    """A clock that advances by one second each time it is read."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        """A fixed time."""
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        """One second more than at the last call."""
        self.seconds += 1
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Advance by `seconds` and return at once."""
        self.seconds += seconds


class ListHistory(History):
    """A history in a list; with `broken`, storing raises `StorageUnavailable`."""

    def __init__(self, *, broken: bool = False) -> None:
        self.turns: list[Turn] = []
        self.broken = broken

    async def append(self, turn: NewTurn) -> Turn:
        """Store a turn and return it."""
        if self.broken:
            raise StorageUnavailable
        stored = Turn(
            id=len(self.turns),
            user_id=turn.user_id,
            query=turn.query,
            response=turn.response,
            session_id=turn.session_id,
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        )
        self.turns.append(stored)
        return stored

    async def latest(
        self, user_id: str, *, limit: int, session_id: str | None = None
    ) -> tuple[Turn, ...]:
        """The latest turns of that user, newest first, and of that session, if given."""
        found = [
            t
            for t in reversed(self.turns)
            if t.user_id == user_id and session_id in {None, t.session_id}
        ]
        return tuple(found[:limit])


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A route: the provider and endpoint of an answer, its attempts, and whether it is a fallback."""

    provider: str = "ray_serve"
    endpoint: str = "http://ray:8000"
    attempts: int = 1
    fallback: bool = False


@dataclass(slots=True, kw_only=True)
class Spoken:
    """An answer that yields prepared chunks, then raises `error`, if given."""

    chunks: Sequence[Chunk]
    error: BaseException | None = None
    origin: Origin = field(default_factory=lambda: Origin(model="m", engine="e"))
    route: Way = field(default_factory=Way)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for chunk in self.chunks:
            yield chunk
        if self.error is not None:
            raise self.error


class ScriptedGenerator:
    """Answers each request with prepared chunks; `window`: the longest prompt accepted, in bytes."""

    def __init__(
        self,
        chunks: Sequence[Chunk] = WHOLE,
        *,
        refusal: MongarsError | None = None,
        error: BaseException | None = None,
        window: int | None = None,
    ) -> None:
        self.answer = Spoken(chunks=chunks, error=error)
        self.refusal = refusal
        self.window = window
        self.asked: list[GenerationRequest] = []
        self.open_now = 0

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, *, deadline: object = None
    ) -> AsyncIterator[Spoken]:
        """The prepared answer; raises `refusal`, if given, or `ContextLengthExceeded` for too long a prompt."""
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal
        if self.window is not None and request.prompt_bytes > self.window:
            raise ContextLengthExceeded(
                prompt_tokens=request.prompt_bytes, context_tokens=self.window
            )
        self.open_now += 1
        try:
            yield self.answer
        finally:
            self.open_now -= 1
