"""Passing a streamed answer on as the engine's own bytes, as far as they are right for the client.

This is an optimisation of `api.chat_events`, and has the same result for a client: events that are passed
on cost no writing, and carry everything that the engine reports about a token. An event is written
anew, from its chunk, where the engine's would be wrong:

- the answer moved: the events of the endpoint that continues it carry another id, and may repeat text
  that was delivered. The id stays the first one's; the model is that of the new endpoint;
- the client does not want the counts, or the engine did not send the role;
- the event holds more than the protocol has: other lines than `data`, a second role, another id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from mongars.api.chat_events import ChatEvents
from mongars.protocol.openai import fingerprint_in
from mongars.protocol.sse import DONE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mongars.core.generation import Chunk, Usage

_ROLE = b'"role"'


_END = b"}\n\n"
_NO_COUNTS = b',"usage":null}\n\n'


def _without_counts(raw: bytes) -> bytes:
    """The events with `usage: null`, which each but the last has where the counts are wanted.

    Nothing is parsed: in a text, line ends and the quotes of the name would be escaped.
    """
    if b'"usage":' in raw:
        return raw
    return raw.replace(_END, _NO_COUNTS)


class Relay:
    """The events of one answer: one id, one role per choice, the text, the finish, maybe the counts.

    `answer_id`, `created` and `model` are used until the engine has named its own.
    """

    def __init__(self, *, answer_id: str, created: int, model: str, with_usage: bool) -> None:
        self._writer = ChatEvents(
            answer_id=answer_id, created=created, model=model, with_usage=with_usage
        )
        self._started = self._writer.started
        self._with_usage = with_usage
        self._id = b""
        """As it stands in every event, once the engine has named one."""
        self._moved = False
        self._usage = b""

    def events(self, chunks: Iterable[Chunk], *, moved_to: str | None = None) -> bytes:
        """The events for these chunks; `moved_to` is the model that continues a moved answer."""
        if moved_to is not None:
            self._moved = True
            self._writer.moved_to = moved_to
        return b"".join([self._event(chunk) for chunk in chunks])

    def end(self) -> bytes:
        """The bytes that end a complete answer."""
        return self._usage + DONE

    def _event(self, chunk: Chunk) -> bytes:
        own = self._moved or not self._is_plain(chunk)
        if chunk.usage is not None:
            self._count(chunk, chunk.usage, own=own)
            if not (chunk.text or chunk.reasoning) and chunk.finish_reason is None:
                return b""
            own = True  # the counts have an event of their own
        role = b"" if chunk.index in self._started else self._role(chunk, own=own)
        if own:
            return role + self._writer.content(chunk)
        return role + (_without_counts(chunk.raw) if self._with_usage else chunk.raw)

    def _is_plain(self, chunk: Chunk) -> bool:
        """Whether the event, or each of several alike, holds nothing but a chunk of this answer."""
        raw = chunk.raw
        if not raw.startswith(b"data: ") or raw.find(b"\n") != raw.find(b"\n\n"):
            return False
        if not self._started and not self._id:
            self._adopt(raw)
        twice = chunk.index in self._started and _ROLE in raw
        return bool(self._id) and self._id in raw and not twice

    def _adopt(self, raw: bytes) -> None:
        """Take id, time and model from the engine's first event, as far as it has them."""
        body = orjson.loads(raw[len(b"data: ") : raw.find(b"\n\n")])
        sent = {"answer_id": body.get("id"), **body}
        mine = self._writer.named
        named = {name: sent.get(name) for name in mine}
        if isinstance(named["answer_id"], str) and named["answer_id"]:
            self._id = orjson.dumps(named["answer_id"])
            right = {n: v for n, v in named.items() if isinstance(v, type(mine[n]))}
            self._writer.named = {**mine, **right}
            self._writer.fingerprint = fingerprint_in(raw)

    def _count(self, chunk: Chunk, usage: Usage, *, own: bool) -> None:
        """Remember the counts, if they are wanted; an engine may send them several times."""
        if not self._with_usage:
            return
        if own or chunk.text or chunk.reasoning or chunk.finish_reason is not None:
            self._usage = self._writer.usage(usage)
        else:
            self._usage = chunk.raw

    def _role(self, chunk: Chunk, *, own: bool) -> bytes:
        if not own and _ROLE in chunk.raw:
            self._started.add(chunk.index)
            return b""
        return self._writer.role(chunk.index)
