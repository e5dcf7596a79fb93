"""Reading events that differ in nothing but their text, without parsing each of them.

The events of one stream are the same from end to end but for the piece of text in them. Once one has been
parsed, the bytes before and after its text are known; another event with the same bytes around it
says the same, with what stands between them as its text.
"""

from __future__ import annotations

import orjson

_FIELD = b'"content":"'
_PROOF = "\x00proof"


class RepeatedEvents:
    """What the text events of one stream have in common, as far as it is known."""

    def __init__(self) -> None:
        self._before = b""
        self._after = b""
        self._start, self._rest = 0, 0
        """How many bytes these are."""

    def text(self, raw: bytes) -> str | None:
        """The text of such an event; None if it has to be parsed. `raw` ends with its blank line."""
        if not self._start or not raw.startswith(self._before) or not raw.endswith(self._after):
            return None
        between = raw[self._start : -self._rest]
        if b'"' in between or b"\\" in between or not between:
            return None
        try:
            text = between.decode()
        except UnicodeDecodeError:
            return None
        return text if text.isprintable() else None  # control characters are no JSON

    def learn(self, raw: bytes, text: str) -> None:
        """Remember an event that was parsed, and held this text and nothing else of interest."""
        if self._before and raw.startswith(self._before) and raw.endswith(self._after):
            return  # known already: this text needed parsing for itself
        before, field, rest = raw.partition(_FIELD)
        written = orjson.dumps(text)[1:-1] + b'"'
        if not field or not rest.startswith(written):
            return
        before, after = before + field, rest[len(written) - 1 :]
        if _holds(before + orjson.dumps(_PROOF)[1:-1] + after):
            self._before, self._after = before, after
            self._start, self._rest = len(before), len(after)


def _holds(raw: bytes) -> bool:
    """Whether what was put between the two is the text, and not another field of that name."""
    try:
        body = orjson.loads(raw.removeprefix(b"data: "))
    except orjson.JSONDecodeError:
        return False
    choices = body.get("choices") or [{}]
    return bool((choices[0].get("delta") or {}).get("content") == _PROOF)
