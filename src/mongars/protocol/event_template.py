"""Extracts the text of stream events without parsing the JSON of each one.

Within one stream, nearly all events are the same bytes except for the piece of text in them. Once one has
been parsed, the bytes before and after its text are known; together they are the *template*. An event that
begins and ends with these bytes has the bytes in between as its text.
"""

from __future__ import annotations

import orjson

_FIELD = b'"content":"'
_PROOF = "\x00proof"


class EventTemplate:
    """Reads the text out of the events of one stream without parsing their JSON.

    Nearly all events differ only in the piece of text; the bytes before and after it, which are taken from an event
    that was parsed, are the template.
    """

    def __init__(self) -> None:
        self._before = b""
        self._after = b""
        self._start, self._rest = 0, 0
        """The lengths of the template's two parts, in bytes."""

    def text(self, raw: bytes) -> str | None:
        """The text in the bytes `raw` of an event (blank line included); None if the event must be parsed as JSON.

        None if it does not fit the template, before `learn` was called, and for a text with escapes or control
        characters.
        """
        if not self._start or not raw.startswith(self._before) or not raw.endswith(self._after):
            return None
        between = raw[self._start : -self._rest]
        if b'"' in between or b"\\" in between or not between:
            return None
        try:
            text = between.decode()
        except UnicodeDecodeError:
            return None
        return text if text.isprintable() else None  # JSON allows no bare control characters

    def learn(self, raw: bytes, text: str) -> None:
        """Derive the template from the bytes `raw` of an event that was parsed; `text`: the text in it.

        Nothing changes if the event fits the current template, or if no template can be derived.
        """
        if self._before and raw.startswith(self._before) and raw.endswith(self._after):
            return  # it fits the current template: only its text needed the JSON parser
        before, field, rest = raw.partition(_FIELD)
        written = orjson.dumps(text)[1:-1] + b'"'
        if not field or not rest.startswith(written):
            return
        before, after = before + field, rest[len(written) - 1 :]
        if _holds(before + orjson.dumps(_PROOF)[1:-1] + after):
            self._before, self._after = before, after
            self._start, self._rest = len(before), len(after)


def _holds(raw: bytes) -> bool:
    """Whether `raw`, an event with the placeholder `_PROOF` as text, is parsed as an event with exactly that text.

    If so, the bytes around the placeholder are a valid template.
    """
    try:
        body = orjson.loads(raw.removeprefix(b"data: "))
    except orjson.JSONDecodeError:
        return False
    choices = body.get("choices") or [{}]
    return bool((choices[0].get("delta") or {}).get("content") == _PROOF)
