"""Passing a streamed answer on: the engine's own bytes, as far as they are right for the caller.

Events are relayed as they came, so the caller gets what the engine said of each token, and writing them
costs nothing. They are written anew where the engine's would be wrong:

- the answer moved: the events of whoever goes on carry another id, and maybe text the caller has. The
  id stays the first one's; the model is that of whoever goes on;
- the caller did not ask for the counts, or the engine did not name the role;
- they hold more than the protocol has: other lines than `data`, a second role, another id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from mongars.protocol.openai import (
    REASONING,
    chunk_body,
    fingerprint_in,
    fingerprint_of,
    logprob_entries,
    usage_chunk_body,
)
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mongars.core.generation import Chunk, Usage

_ROLE = b'"role"'


_END = b"}\n\n"
_NO_COUNTS = b',"usage":null}\n\n'


def _without_counts(raw: bytes) -> bytes:
    """The events with `usage: null`, as each has it but the last, where the counts are asked for.

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
        self._named: dict[str, Any] = {
            "answer_id": answer_id,
            "created": created,
            "model": model,
        }
        self._with_usage = with_usage
        self._id = b""
        """As it stands in every event, once the engine has named one."""
        self._begun: set[int] = set()
        self._moved_to: str | None = None
        self._usage = b""
        self._fingerprint: str | None = fingerprint_of(model)

    def events(self, chunks: Iterable[Chunk], *, moved_to: str | None = None) -> bytes:
        """What these chunks say; `moved_to` is the model of whoever goes on, once somebody has to."""
        self._moved_to = moved_to
        return b"".join([self._event(chunk) for chunk in chunks])

    def end(self) -> bytes:
        """What ends a complete answer."""
        return self._usage + DONE

    def _event(self, chunk: Chunk) -> bytes:
        own = self._moved_to is not None or not self._is_plain(chunk)
        if chunk.usage is not None:
            self._count(chunk, chunk.usage, own=own)
            if not (chunk.text or chunk.reasoning) and chunk.finish_reason is None:
                return b""
            own = True  # the counts are told in an event of their own
        role = b"" if chunk.index in self._begun else self._role(chunk, own=own)
        if own:
            return role + self._written(chunk)
        return role + (_without_counts(chunk.raw) if self._with_usage else chunk.raw)

    def _is_plain(self, chunk: Chunk) -> bool:
        """Whether the event, or each of several alike, holds nothing but a chunk of this answer."""
        raw = chunk.raw
        if not raw.startswith(b"data: ") or raw.find(b"\n") != raw.find(b"\n\n"):
            return False
        if not self._begun and not self._id:
            self._adopt(raw)
        twice = chunk.index in self._begun and _ROLE in raw
        return bool(self._id) and self._id in raw and not twice

    def _adopt(self, raw: bytes) -> None:
        """Take id, time and model from the engine's first event, as far as it has them."""
        body = orjson.loads(raw[len(b"data: ") : raw.find(b"\n\n")])
        told = {"answer_id": body.get("id"), **body}
        named = {name: told.get(name) for name in self._named}
        if isinstance(named["answer_id"], str) and named["answer_id"]:
            self._id = orjson.dumps(named["answer_id"])
            kinds = {name: type(mine) for name, mine in self._named.items()}
            right = {n: v for n, v in named.items() if isinstance(v, kinds[n])}
            self._named = {**self._named, **right}
            self._fingerprint = fingerprint_in(raw)

    def _count(self, chunk: Chunk, usage: Usage, *, own: bool) -> None:
        """Remember the counts, if they are asked for; an engine may send them several times."""
        if not self._with_usage:
            return
        if own or chunk.text or chunk.reasoning or chunk.finish_reason is not None:
            self._usage = self._encoded(usage_chunk_body(**self._name(), usage=usage))
        else:
            self._usage = chunk.raw

    def _role(self, chunk: Chunk, *, own: bool) -> bytes:
        self._begun.add(chunk.index)
        if not own and _ROLE in chunk.raw:
            return b""
        return self._write({"role": "assistant", "content": ""}, chunk.index)

    def _written(self, chunk: Chunk) -> bytes:
        written = b""
        if chunk.reasoning:
            written = self._write({REASONING: chunk.reasoning}, chunk.index)
        if chunk.text or chunk.logprobs:  # half of a split character has no text yet
            logprobs = logprob_entries(chunk)
            written += self._write({"content": chunk.text}, chunk.index, logprobs=logprobs)
        if chunk.finish_reason is not None:
            written += self._write({}, chunk.index, finish_reason=chunk.finish_reason)
        return written

    def _write(
        self,
        delta: dict[str, Any],
        index: int,
        *,
        finish_reason: str | None = None,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> bytes:
        body = chunk_body(**self._name(), delta=delta, finish_reason=finish_reason, index=index)
        if logprobs:
            body["choices"][0]["logprobs"] = {"content": logprobs}
        if self._with_usage:
            body["usage"] = None
        return self._encoded(body)

    def _encoded(self, body: dict[str, Any]) -> bytes:
        """The event, with the fingerprint of the engine's own events, or without one as they are."""
        if self._moved_to is None and self._fingerprint is None:
            del body["system_fingerprint"]
        elif self._moved_to is None:
            body["system_fingerprint"] = self._fingerprint
        return encode_event(body)

    def _name(self) -> dict[str, Any]:
        """The id, time and model every event of this answer carries."""
        if self._moved_to is not None:
            return {**self._named, "model": self._moved_to}
        return self._named
