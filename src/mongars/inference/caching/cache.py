"""Answers kept for those who ask the very same again: what may be kept, for whom, and how long.

Only what would be answered the same way again is kept: requests that draw greedily or with a seed,
within one user's scope, and only while the weights that answered are still those that answer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mongars.core.generation import task_role
from mongars.protocol.body import encode

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.core.generation import (
        Chunk,
        GenerationRequest,
        Origin,
        Sampling,
        TaskRole,
        Usage,
    )
    from mongars.inference.provider import Route, StreamState

    Weights = tuple[str, str, str | None]
    """Model, adapter version and adapter digest."""

ENTRY_BYTES = 1024
"""What an entry takes beside its chunks: key, origin, route, and its places in two tables."""
ROLLOUT_SECONDS = 60.0
"""While other weights have answered within this time, nobody knows who would answer now."""


def answer_key(request: GenerationRequest, defaults: Sampling) -> bytes | None:
    """What an equal question of the same user has in common; None if its answer is not kept.

    `defaults` is what applies where the request leaves its sampling open.
    """
    sampling = request.sampling.with_defaults(defaults)
    repeatable = sampling.temperature == 0 or sampling.seed is not None
    if request.scope is None or request.continue_from is not None or not repeatable:
        return None
    messages = [[message.role, message.content] for message in request.messages]
    asked = [
        request.scope,
        messages,
        dataclasses.asdict(sampling),
        request.task_type,
        request.shortens,
    ]
    return hashlib.sha256(encode(asked)).digest()


def weights_of(origin: Origin) -> Weights:
    """What decides what is answered."""
    return (origin.model, origin.adapter_version, origin.adapter_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """A complete answer, and the way it came."""

    chunks: tuple[Chunk, ...]
    origin: Origin
    route: Route

    @property
    def size(self) -> int:
        """Bytes of memory it takes, closely enough to bound them."""
        return ENTRY_BYTES + sum(_size(chunk) for chunk in self.chunks)


class AnswerCache:
    """The answers used last, up to so many bytes and seconds each."""

    def __init__(self, *, max_bytes: int, seconds: float, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._answers: OrderedDict[bytes, CachedAnswer] = OrderedDict()  # least recently used first
        self._expires: OrderedDict[bytes, float] = OrderedDict()  # oldest first
        self.size = 0
        """Bytes in use."""

    def get(self, key: bytes, weights: Weights | None) -> CachedAnswer | None:
        """The answer to that question, if these weights gave it; None stands for unknown ones."""
        self._expire()
        found = self._answers.get(key)
        if found is None or weights is None or weights_of(found.origin) != weights:
            return None
        self._answers.move_to_end(key)
        return found

    def put(self, key: bytes, answer: CachedAnswer) -> None:
        """Keep it, instead of what was kept under that key; one larger than all is not kept."""
        self._expire()
        self._drop(key)
        if answer.size > self._max_bytes:
            return
        self._answers[key] = answer
        self._expires[key] = self._clock.monotonic() + self._seconds
        self.size += answer.size
        while self.size > self._max_bytes:
            self._drop(next(iter(self._answers)))

    def _expire(self) -> None:
        now = self._clock.monotonic()
        while self._expires and self._expires[oldest := next(iter(self._expires))] <= now:
            self._drop(oldest)

    def _drop(self, key: bytes) -> None:
        dropped = self._answers.pop(key, None)
        if dropped is not None:
            del self._expires[key]
            self.size -= dropped.size


class CurrentWeights:
    """Which weights the preferred provider answers with now, as its own answers say."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: defaultdict[TaskRole, dict[Weights, float]] = defaultdict(dict)

    def note(self, request: GenerationRequest, origin: Origin) -> None:
        """It began an answer to a request of that kind."""
        now = self._clock.monotonic()
        role = task_role(request.task_type)
        others = self._seen[role].items()
        recent = {weights: at for weights, at in others if now - at < ROLLOUT_SECONDS}
        recent.pop(weights_of(origin), None)
        self._seen[role] = {**recent, weights_of(origin): now}

    def current(self, request: GenerationRequest) -> Weights | None:
        """Those that answer such a request; None while unknown, or mixed in a roll-out."""
        seen = self._seen[task_role(request.task_type)]
        if not seen:
            return None
        now = self._clock.monotonic()
        *others, last = seen  # in the order in which they were noted
        return None if any(now - seen[other] < ROLLOUT_SECONDS for other in others) else last


class ReplayedChunks:
    """A stored answer, as a `ChunkStream`."""

    def __init__(self, answer: CachedAnswer) -> None:
        self._chunks = iter(answer.chunks)
        self.state: StreamState = "open"
        self.usage: Usage | None = None

    def ready(self) -> list[Chunk]:
        """All of the rest."""
        found = list(self._chunks)
        self.usage = next((c.usage for c in reversed(found) if c.usage is not None), self.usage)
        return found

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        chunk = next(self._chunks, None)
        if chunk is None:
            self.state = "complete"
            raise StopAsyncIteration
        self.usage = chunk.usage or self.usage
        return chunk


def _size(chunk: Chunk) -> int:
    parts = (chunk, chunk.text, chunk.reasoning, chunk.raw, chunk.logprobs, *chunk.logprobs)
    return sum(sys.getsizeof(part) for part in parts)
