"""Relaying the stream events of the model server (engine) to the client, byte for byte, where they are correct.

This is an optimisation of `api.chat_events`, with the same result for a client: relayed events cost no
serialisation and carry everything that the engine reports about a token. An event is written anew, from its
chunk, where the engine's event would be wrong:

- another endpoint continues the answer: its events carry another id, and may repeat delivered text. The id
  stays that of the first endpoint; the model is that of the new one;
- the client did not request token counts (`usage`), or the engine did not send the role;
- the event has parts that the protocol does not: lines other than `data`, a second role, another id.
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
    """The server-sent events `raw` with `"usage": null` added, unless they have `usage`.

    Clients that requested token counts expect the field in every event, null in all but the last. The bytes are
    replaced without parsing: inside a text, line ends and quotes would be escaped.
    """
    if b'"usage":' in raw:
        return raw
    return raw.replace(_END, _NO_COUNTS)


class Relay:
    """Writes the events of one streamed answer; forwards those of the model server unchanged where they are correct.

    `answer_id`, `created` (Unix seconds) and `model` are used until the model server's first event supplies other
    values. `with_usage`: the client requested token counts.
    """

    def __init__(self, *, answer_id: str, created: int, model: str, with_usage: bool) -> None:
        self._writer = ChatEvents(
            answer_id=answer_id, created=created, model=model, with_usage=with_usage
        )
        self._started = self._writer.started
        self._with_usage = with_usage
        self._id = b""
        """The JSON field with the answer's id as it occurs in the engine's events; empty before the first one."""
        self._moved = False
        self._usage = b""

    def events(self, chunks: Iterable[Chunk], *, moved_to: str | None = None) -> bytes:
        """The bytes of the events for these chunks of the answer; empty if they need no event.

        `moved_to`: the name of the model of another endpoint that continues the answer; None while the first endpoint
        serves it. Once set, it stays in effect for all later events.
        """
        if moved_to is not None:
            self._moved = True
            self._writer.moved_to = moved_to
        return b"".join([self._event(chunk) for chunk in chunks])

    def end(self) -> bytes:
        """The last bytes of the stream: `[DONE]`, after the event with token counts if the client requested them.

        That event is left out if the model server sent no token counts.
        """
        return self._usage + DONE

    def _event(self, chunk: Chunk) -> bytes:
        own = self._moved or not self._is_plain(chunk)
        if chunk.usage is not None:
            self._count(chunk, chunk.usage, own=own)
            if not (chunk.text or chunk.reasoning) and chunk.finish_reason is None:
                return b""
            own = True  # token counts are sent in a separate event
        role = b"" if chunk.index in self._started else self._role(chunk, own=own)
        if own:
            return role + self._writer.content(chunk)
        return role + (_without_counts(chunk.raw) if self._with_usage else chunk.raw)

    def _is_plain(self, chunk: Chunk) -> bool:
        """Whether the model server's bytes of `chunk` (`raw`) are complete events that the client can get unchanged.

        False if they have no id or another one than the answer, lines other than `data`, or the role a second time. The
        first call adopts the model server's id for the answer.
        """
        raw = chunk.raw
        if not raw.startswith(b"data: ") or raw.find(b"\n") != raw.find(b"\n\n"):
            return False
        if not self._started and not self._id:
            self._adopt(raw)
        twice = chunk.index in self._started and _ROLE in raw
        return bool(self._id) and self._id in raw and not twice

    def _adopt(self, raw: bytes) -> None:
        """Take id, time and model from `raw`, the model server's first event, for the events that `Relay` writes."""
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
        """Store the event with the token counts `usage` for `end`, if the client requested them.

        It is the model server's event, or a new one if the chunk also has text or a finish reason, or if `own` is true:
        the model server's event would be wrong for this answer, for example because another endpoint continues it.
        """
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
