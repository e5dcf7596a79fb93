"""Splitting byte streams into server-sent events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongars.protocol.sse import (
    DONE,
    MAX_EVENT_BYTES,
    EventSplitter,
    EventTooLarge,
    encode_event,
    parse_event,
)

PAYLOADS = st.lists(st.dictionaries(st.text(max_size=8), st.text(max_size=20)), max_size=6)


@given(PAYLOADS, st.lists(st.integers(min_value=1, max_value=7), min_size=1))
def test_events_do_not_depend_on_how_the_network_cut_them(
    payloads: list[dict[str, str]], sizes: list[int]
) -> None:
    """The same stream gives the same events, however the network splits it, also within a multi-byte character."""
    stream = b"".join(encode_event(payload, name="chunk") for payload in payloads) + DONE
    splitter, events, position, turn = EventSplitter(), [], 0, 0
    while position < len(stream):
        size = sizes[turn % len(sizes)]
        events += splitter.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert events == EventSplitter().feed(stream)
    assert len(events) == len(payloads) + 1
    assert events[-1].is_done
    assert not splitter.unfinished
    assert b"".join(event.raw for event in events) == stream


def test_carriage_returns_and_comments_are_understood() -> None:
    """CRLF line ends and comment lines, as proxies add them, do not change the events."""
    events = EventSplitter().feed(b": ping\r\n\r\nevent: meta\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n")
    assert [(event.name, event.data) for event in events] == [("meta", b"1"), ("message", b"2")]


def test_carriage_return_cut_from_its_line_feed() -> None:
    """A CRLF that arrives in two pieces is one line end."""
    splitter = EventSplitter()
    events = [event for byte in b"data: 1\r\n\r\n" for event in splitter.feed(bytes([byte]))]
    assert [event.data for event in events] == [b"1"]


def test_endless_event_is_refused() -> None:
    """An event longer than `MAX_EVENT_BYTES` is refused."""
    splitter = EventSplitter()
    splitter.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x")


def test_unfinished_event_is_noticed() -> None:
    """`unfinished` is true after bytes without a blank line at their end."""
    splitter = EventSplitter()
    splitter.feed(b'data: {"half')
    assert splitter.unfinished
    assert parse_event(b": only a comment\n\n") is None
