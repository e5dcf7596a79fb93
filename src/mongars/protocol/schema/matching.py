"""Matches a text against a pattern in time at most quadratic in the length of the text.

The `re` module backtracks: `(a+)+$` with forty letters takes years, which blocks the process, and patterns
are sent by clients. This matcher simulates all alternatives at once, like a nondeterministic automaton: each
part of the pattern maps the set of positions where it may begin to the set where it may end.
"""

from __future__ import annotations

import re
from functools import lru_cache
from re import _constants as op  # type: ignore[attr-defined] # the names of its parser's output
from re import _parser  # type: ignore[attr-defined] # only its parser is used
from typing import Any

KEPT_PATTERNS = 256
_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)
_BEGINS = (op.AT_BEGINNING, op.AT_BEGINNING_STRING)
_ENDS = (op.AT_END, op.AT_END_STRING)
_CATEGORIES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}
Places = set[int]


class _Unknown(Exception):
    """A pattern has a part that is not supported here, such as look-around, a back-reference or a word boundary."""


def matches(pattern: str, text: str) -> bool:
    """Whether the regular expression matches anywhere in the text; False for an invalid or unsupported pattern.

    The time is at most quadratic in the length of the text. Schemas with unsupported patterns are refused before they
    reach an engine.
    """
    try:
        return bool(_Matcher(text).ends(_parsed(pattern), set(range(len(text) + 1))))
    except (_Unknown, re.error, RecursionError):
        return False


@lru_cache(maxsize=KEPT_PATTERNS)
def _parsed(pattern: str) -> Any:  # noqa: ANN401 (the parser has no types)
    return _parser.parse(pattern)


class _Matcher:
    def __init__(self, text: str) -> None:
        self._text = text

    def ends(self, parts: Any, places: Places) -> Places:  # noqa: ANN401 (as above)
        """The positions in the text where a match of all `parts` in sequence may end, if it begins at one of `places`.

        `parts`: as returned by Python's parser of regular expressions. Raises `_Unknown` for a part that is not
        supported.
        """
        for kind, value in parts:
            if not places:
                break
            places = self._part(kind, value, places)
        return places

    def _part(self, kind: Any, value: Any, places: Places) -> Places:  # noqa: ANN401 (as above)
        if kind in _REPEATS:
            return self._repeated(*value, places=places)
        if kind is op.BRANCH:
            return set().union(*(self.ends(branch, places) for branch in value[1]))
        if kind is op.SUBPATTERN and not (value[1] or value[2]):
            return self.ends(value[3], places)
        if kind is op.AT and value in _BEGINS:
            return places & {0}
        if kind is op.AT and value in _ENDS:
            return places & {len(self._text)}
        size = len(self._text)
        return {at + 1 for at in places if at < size and _holds(kind, value, self._text[at])}

    def _repeated(self, low: int, high: int, parts: Any, *, places: Places) -> Places:  # noqa: ANN401 (as above)
        for _ in range(low):
            places = self.ends(parts, places)
        found, fresh, times = set(places), places, low
        while fresh and times < high:
            fresh = self.ends(parts, fresh) - found
            found |= fresh
            times += 1
        return found


def _holds(kind: Any, value: Any, sign: str) -> bool:  # noqa: ANN401 (as above)
    """Whether the character `sign` matches one part of a pattern that stands for a single character.

    `kind`, `value`: the part as Python's parser of regular expressions returns it. Raises `_Unknown` if it is not
    supported.
    """
    if kind is op.LITERAL:
        return bool(ord(sign) == value)
    if kind is op.NOT_LITERAL:
        return bool(ord(sign) != value)
    if kind is op.ANY:
        return sign != "\n"
    if kind is not op.IN:
        raise _Unknown
    negated = value[0][0] is op.NEGATE
    return negated != any(_in(*part, sign=sign) for part in value[negated:])


def _in(kind: Any, value: Any, *, sign: str) -> bool:  # noqa: ANN401 (as above)
    if kind is op.RANGE:
        return bool(value[0] <= ord(sign) <= value[1])
    if kind is op.CATEGORY:
        return re.match(_CATEGORIES[value], sign) is not None
    return bool(kind is op.LITERAL and ord(sign) == value)
