"""The store of the answer cache: which answers are stored, under which key, and for how long.

Only repeatable answers are stored: of requests with temperature 0 or a seed, separately for each account.
A stored answer is used only while the model and adapter that generated it are still in use.
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
"""Estimated bytes of memory of a stored answer without its chunks: key, origin, route, and entries in the tables."""
ROLLOUT_SECONDS = 60.0
"""If more than one model or adapter answered within this many seconds, no stored answer is used."""


def answer_key(request: GenerationRequest, defaults: Sampling) -> bytes | None:
    """The key of the answer cache for `request`, as SHA-256 bytes; None if its answer must not be stored.

    Requests of one account have the same key if they are equal in messages, sampling parameters, task type and
    `shortens` (whether the caller shortens a prompt that is too long). An answer is stored only if the request names an
    account (`scope`), has temperature 0 or a seed, demands no adapter (a name may mean another adapter later), and does
    not continue a partial answer. `defaults`: values for sampling parameters that the request does not set.
    """
    sampling = request.sampling.with_defaults(defaults)
    repeatable = sampling.temperature == 0 or sampling.seed is not None
    demanding = request.adapter is not None or request.continue_from is not None
    if request.scope is None or demanding or not repeatable:
        return None
    messages = [[message.role, message.content] for message in request.messages]
    identity = [
        request.scope,
        messages,
        dataclasses.asdict(sampling),
        request.task_type,
        request.shortens,
    ]
    return hashlib.sha256(encode(identity)).digest()


def weights_of(origin: Origin) -> Weights:
    """Model name, adapter version and adapter digest in `origin`: what generated an answer.

    A stored answer is reused only while the answers to new requests come from the same three.
    """
    return (origin.model, origin.adapter_version, origin.adapter_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """A complete stored answer: its chunks, what generated it (`origin`), and by which provider (`route`)."""

    chunks: tuple[Chunk, ...]
    origin: Origin
    route: Route

    @property
    def size(self) -> int:
        """Approximate memory of this answer in bytes."""
        return ENTRY_BYTES + sum(_size(chunk) for chunk in self.chunks)


class AnswerCache:
    """Least-recently-used cache of answers in memory.

    `max_bytes`: bound on the approximate size of all stored answers in bytes. `seconds`: an answer is removed this many
    seconds after it was stored.
    """

    def __init__(self, *, max_bytes: int, seconds: float, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._answers: OrderedDict[bytes, CachedAnswer] = OrderedDict()  # least recently used first
        self._expires: OrderedDict[bytes, float] = OrderedDict()  # oldest first
        self.size = 0
        """Approximate memory of all stored answers in bytes."""

    def get(self, key: bytes, weights: Weights | None) -> CachedAnswer | None:
        """The unexpired answer stored under `key`, if the model and adapter `weights` generated it; else None.

        `weights`: as `weights_of` returns them. None means that the model and adapter now in use are unknown; the
        result is then None too.
        """
        self._expire()
        found = self._answers.get(key)
        if found is None or weights is None or weights_of(found.origin) != weights:
            return None
        self._answers.move_to_end(key)
        return found

    def put(self, key: bytes, answer: CachedAnswer) -> None:
        """Store an answer under `key`, replacing an earlier one; least recently used answers are removed to make room.

        An answer larger than `max_bytes` is not stored.
        """
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
    """Which model and adapter answered last, for each model role (`general` or `coding`).

    A stored answer is used only if it is from these. Only answers of the provider whose answers are cached may be
    recorded here.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: defaultdict[TaskRole, dict[Weights, float]] = defaultdict(dict)

    def note(self, request: GenerationRequest, origin: Origin) -> None:
        """Record that an answer to `request` has started; `origin`: the model and adapter that generate it.

        It is recorded for the model role (`general` or `coding`) of the request's task type. A request that demands an
        adapter shows nothing of the one that answers others, and is not recorded.
        """
        if request.adapter is not None:
            return
        now = self._clock.monotonic()
        role = task_role(request.task_type)
        others = self._seen[role].items()
        recent = {weights: at for weights, at in others if now - at < ROLLOUT_SECONDS}
        recent.pop(weights_of(origin), None)
        self._seen[role] = {**recent, weights_of(origin): now}

    def current(self, request: GenerationRequest) -> Weights | None:
        """Model, adapter version and digest of the last answer recorded for the model role of `request`.

        None if no answer was recorded for that role (`general` or `coding`), or if more than one model or adapter
        answered within the last `ROLLOUT_SECONDS` (60 s), as while a new adapter is rolled out.
        """
        seen = self._seen[task_role(request.task_type)]
        if not seen:
            return None
        now = self._clock.monotonic()
        *others, last = seen  # in the order in which they were noted
        return None if any(now - seen[other] < ROLLOUT_SECONDS for other in others) else last


class ReplayedChunks:
    """A `ChunkStream` (async iterator over the chunks of an answer) that returns the chunks of a stored answer."""

    def __init__(self, answer: CachedAnswer) -> None:
        self._chunks = iter(answer.chunks)
        self.state: StreamState = "open"
        self.usage: Usage | None = None

    def ready(self) -> list[Chunk]:
        """Remove and return all chunks that were not read yet; never waits, since the answer is stored completely."""
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
