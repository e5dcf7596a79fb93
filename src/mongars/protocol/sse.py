"""Server-sent events: splitting a byte stream into events, and writing events.

The splitter follows the WHATWG event-stream format: one byte order mark may come first, events end at a
blank line, lines end in LF, CRLF or CR, comments start with a colon, unknown fields are ignored.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import NamedTuple

import orjson

DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 4 * 1024 * 1024


class EventTooLarge(ValueError):
    """A stream of server-sent events has an event of more than `MAX_EVENT_BYTES` (4 MiB)."""


class ServerEvent(NamedTuple):
    """One server-sent event: its name (`message` by default), its data, and its bytes including the blank line."""

    name: str
    data: bytes
    raw: bytes

    @property
    def is_done(self) -> bool:
        """Whether this is the event `[DONE]`, which marks a stream as complete."""
        return self.data == b"[DONE]"


class EventSplitter:
    """Splits a byte stream of server-sent events, received in blocks of any size, into events.

    An incomplete event is kept until its end is received.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._held = b""
        self._head: bytes | None = b""
        """First bytes of the stream, held until it is known whether they are a byte order mark; then None."""

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Add a block of bytes; returns the events that it completes, without those that are only comments.

        Raises `EventTooLarge` if more than `MAX_EVENT_BYTES` are received without the end of an event.
        """
        found = map(parse_event, self.blocks(data))
        return [event for event in found if event is not None]

    def blocks(self, data: bytes) -> list[bytes]:
        """Add a block of bytes; returns the bytes of each event that it completes, blank line included, unparsed.

        Line ends are converted to LF. Raises `EventTooLarge` if more than `MAX_EVENT_BYTES` are received without the
        end of an event.
        """
        if self._head is not None:
            data = self._without_mark(self._head + data)
        if self._held or b"\r" in data:
            data = self._unify(data)
        known = max(0, len(self._buffer) - 1)  # the blank line may be split between two blocks
        self._buffer += data
        end = self._buffer.rfind(b"\n\n", known)
        blocks = []
        if end >= 0:
            blocks = bytes(self._buffer[:end]).split(b"\n\n")
            del self._buffer[: end + 2]
        if len(self._buffer) > MAX_EVENT_BYTES:
            message = f"an event of more than {MAX_EVENT_BYTES} bytes"
            raise EventTooLarge(message)
        return [block + b"\n\n" for block in blocks]

    def _without_mark(self, data: bytes) -> bytes:
        """The first bytes of the stream without a byte order mark.

        Empty until enough bytes have arrived to decide whether there is one; `data`: all that have arrived so far.
        """
        undecided = len(data) < len(BOM_UTF8) and BOM_UTF8.startswith(data)
        self._head = data if undecided else None
        return b"" if undecided else data.removeprefix(BOM_UTF8)

    def _unify(self, data: bytes) -> bytes:
        """A block of bytes with CRLF and a lone CR converted to LF.

        A CR at its end is held back until the next block, which may begin with LF.
        """
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        return data.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    @property
    def unfinished(self) -> bool:
        """Whether bytes of an event have been received whose end has not."""
        return bool(self._buffer.strip())


def parse_event(raw: bytes) -> ServerEvent | None:
    """Parse the bytes of one server-sent event, whose lines end in LF; a blank line at the end may be included.

    None if it has neither a name nor data, as a comment. Lines of data are joined by LF.
    """
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:  # nearly all events
        return ServerEvent("message", raw[6:-2], raw)
    name = "message"
    data = []
    for line in raw.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    if not data and name == "message":
        return None
    return ServerEvent(name, b"\n".join(data), raw)


def encode_event(payload: object, *, name: str | None = None) -> bytes:
    """The bytes of a server-sent event whose data is `payload` as JSON; `name` None: no name, that is `message`.

    `payload`: any value that orjson can encode, such as a dictionary; `TypeError` is raised for another one.
    """
    data = orjson.dumps(payload)
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + data + b"\n\n"
