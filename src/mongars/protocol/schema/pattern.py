r"""Converts the regular expressions of JSON Schema to grammar expressions.

A grammar generates only texts that the pattern matches, both in JavaScript and in Python. It may
exclude some of them: `\d` and `\w` generate ASCII, open repetitions are bounded. Parts that cannot be
expressed (look-around, back-references, word boundaries, anchors inside) are refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NoReturn

from mongars.protocol.schema import characters as ch

OPEN_CHARACTERS = 64
"""For a repetition without maximum of one character: how many more than the minimum are generated at most."""
OPEN_ANY = 500
"""As `OPEN_CHARACTERS`, for a set of nearly all characters, which is used for prose."""
OPEN_GROUPS = 16
"""As `OPEN_CHARACTERS`, for a group, or for a character inside a repeated group."""
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(\d+)(?:(,)(\d*))?\})")
_WIDE = 40
"""Length of a character set's grammar expression above which it counts as nearly all characters."""
_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()]", re.DOTALL)
"""Matches an escape, a character set, or the parenthesis of a group."""
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09}
_WORD = {"d": ch.DIGITS, "w": ch.WORDS, "s": ch.BLANKS}
_GROUPS = {"(?=": "look-ahead", "(?!": "look-ahead", "(?<=": "look-behind", "(?<!": "look-behind"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A grammar expression, with the minimum and maximum number of characters of the texts that it generates."""

    text: str
    least: int
    most: int

    @property
    def fixed(self) -> bool:
        """Whether all texts that this expression generates have the same number of characters."""
        return self.least == self.most


@dataclass(frozen=True, slots=True)
class _Repeated:
    """The grammar expression `unit`, repeated `low` to `high` times."""

    unit: Piece
    low: int = 1
    high: int = 1

    @property
    def fixed(self) -> bool:
        return self.unit.fixed and self.low == self.high

    def piece(self) -> Piece:
        if (self.low, self.high) == (1, 1):
            return self.unit
        text = f"{self.unit.text}{{{self.low},{self.high}}}" if self.high else '""'
        return Piece(text, self.unit.least * self.low, self.unit.most * self.high)


ANY = Piece(ch.class_of(ch.PRINTABLE), 1, 1)
"""Generates any character except control characters."""


def pattern_piece(pattern: str, *, least: int = 0, most: int | None = None) -> Piece:
    """A grammar expression for texts of `least` to `most` characters that match the regular expression `pattern`.

    The match may be anywhere in the text, unless the pattern has anchors. Not all such texts are generated: repetitions
    without a maximum are bounded. The text is the content of a JSON string, without its quotes. `most` None: no limit.

    Raises:
        ValueError: a part of the pattern, or its combination with the lengths, is not supported.
    """
    branches = _Reader(pattern).whole()
    return _either([_fitted(branch, least, most) for branch in branches])


@dataclass(frozen=True, slots=True)
class _Branch:
    items: tuple[_Repeated, ...]
    begins: bool
    ends: bool


def _fitted(branch: _Branch, least: int, most: int | None) -> Piece:
    """The grammar expression of one alternative of a pattern, for texts of `least` to `most` characters.

    Where the alternative is not anchored (`^`, `$`), printable text is allowed before or after it. `most` None: no
    limit. Raises `ValueError` if the lengths cannot be enforced.
    """
    items = list(branch.items)
    own = _joined(items)
    open_ends = (not branch.begins) + (not branch.ends)
    spare = OPEN_ANY if most is None else max(0, (most - own.most) // max(1, open_ends))
    lack = max(0, least - own.least)
    if not branch.ends:
        items.append(_Repeated(ANY, lack, max(spare, lack)))
        lack = 0
    if not branch.begins:
        items.insert(0, _Repeated(ANY, lack, max(spare, lack)))
    if open_ends and (most is None or _joined(items).most <= most):
        return _joined(items)
    return _joined(_narrowed(items, least, most))


def _narrowed(items: list[_Repeated], least: int, most: int | None) -> list[_Repeated]:
    """The parts of a pattern, repeated so often that only texts of `least` to `most` characters are generated.

    `items`: the parts with their bounds of repetition. `most` None: no limit. Raises `ValueError` unless it suffices to
    change the bounds of a single part.
    """
    whole = _joined(items)
    if whole.least >= least and (most is None or whole.most <= most):
        return items
    varying = [index for index, item in enumerate(items) if not item.fixed]
    if len(varying) == 1 and (item := items[varying[0]]).unit.fixed and item.unit.least:
        size = item.unit.least
        rest = whole.least - size * item.low
        low = max(item.low, -(-(least - rest) // size))
        high = item.high if most is None else min(item.high, (most - rest) // size)
        if low <= (high := max(high, low) if most is None else high):
            items[varying[0]] = replace(item, low=low, high=high)
            return items
    message = "does not go together with minLength and maxLength; put the lengths into the pattern"
    raise ValueError(message)


def _joined(items: list[_Repeated]) -> Piece:
    pieces = [item.piece() for item in items] or [Piece('""', 0, 0)]
    return Piece(
        " ".join(piece.text for piece in pieces),
        sum(piece.least for piece in pieces),
        sum(piece.most for piece in pieces),
    )


def _either(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    text = f"({' | '.join(piece.text for piece in pieces)})"
    return Piece(text, min(p.least for p in pieces), max(p.most for p in pieces))


class _Reader:
    """Recursive-descent parser of one regular expression, which converts it to grammar expressions."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def whole(self) -> list[_Branch]:
        """Parse the whole pattern; returns its alternatives, with whether each is anchored at its begin and end.

        Raises `ValueError` for an unsupported part.
        """
        branches = []
        while True:
            begins = self._take("^")
            items = self._items(repeated=False)
            ends = self._take("$")
            branches.append(_Branch(tuple(items), begins, ends))
            if self._at == len(self._pattern):
                return branches
            if not self._take("|"):
                self._refuse("an anchor inside")

    def _items(self, *, repeated: bool) -> list[_Repeated]:
        items = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)$":
            items.append(self._repeated(self._atom(repeated=repeated), repeated=repeated))
        return items

    def _atom(self, *, repeated: bool) -> Piece:
        sign = self._next()
        match sign:
            case "(":
                return self._group(repeated=repeated or self._group_repeats())
            case "[":
                return self._one(self._class())
            case ".":
                return ANY
            case "\\":
                return self._one(self._escape())
            case "^":
                self._refuse("an anchor inside")
            case "*" | "+" | "?" | "{":
                self._refuse(f"{sign!r} with nothing to repeat")
        return self._one(((ord(sign), ord(sign)),))

    def _one(self, ranges: ch.Ranges) -> Piece:
        text = ch.class_of(ranges)
        if not text:
            self._refuse("a set without characters that are written in texts")
        return Piece(text, 1, 1)

    def _group(self, *, repeated: bool) -> Piece:
        self._group_kind()
        branches = [_joined(self._items(repeated=repeated))]
        while self._take("|"):
            branches.append(_joined(self._items(repeated=repeated)))
        if not self._take(")"):
            self._refuse("an anchor inside")
        inner = _either(branches)
        return inner if len(branches) > 1 else replace(inner, text=f"({inner.text})")

    def _group_repeats(self) -> bool:
        """Whether the group whose `(` has just been read has a repetition (`*`, `+` or `{`) after its `)`."""
        end, depth = self._at, 1
        while end < len(self._pattern) and depth:
            part = _PART.match(self._pattern, end)
            end = part.end() if part else end + 1
            sign = "" if part is None else part[0]
            depth += (sign == "(") - (sign == ")")
        return self._pattern[end : end + 1] in {"*", "+", "{"}

    def _group_kind(self) -> None:
        rest = self._pattern[self._at - 1 :]
        for begin, name in _GROUPS.items():
            if rest.startswith(begin):
                self._refuse(f"{name} {begin!r}")
        if rest.startswith("(?:"):
            self._at += 2
        elif named := re.match(r"\(\?P?<\w+>", rest):
            self._at += named.end() - 1
        elif rest.startswith("(?"):
            self._refuse(f"the group {rest[:4]!r}")

    def _repeated(self, unit: Piece, *, repeated: bool) -> _Repeated:
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return _Repeated(unit)
        self._at = found.end()
        self._take("?")  # a lazy repetition matches the same texts
        simple = unit.most == 1 and not repeated
        more = OPEN_GROUPS
        if simple:
            more = OPEN_ANY if len(unit.text) > _WIDE else OPEN_CHARACTERS
        match found[0][0]:
            case "?":
                return _Repeated(unit, 0, 1)
            case "*":
                return _Repeated(unit, 0, more)
            case "+":
                return _Repeated(unit, 1, 1 + more)
        low = int(found[1])
        if found[2] is None:
            return _Repeated(unit, low, low)
        return _Repeated(unit, low, int(found[3]) if found[3] else low + more)

    def _class(self) -> ch.Ranges:
        negated = self._take("^")
        found: ch.Ranges = ()
        ascii_only = False
        while not self._take("]"):
            low, wide = self._class_atom(negated=negated)
            ascii_only |= wide
            if len(low) == 1 and low[0][0] == low[0][1] and self._ranges_on():
                self._next()
                high, _ = self._class_atom(negated=negated)
                if len(high) != 1 or high[0][0] < low[0][0]:
                    self._refuse("a range that does not begin before its end")
                low = ((low[0][0], high[0][1]),)
            found = ch.united(found, low)
        if not negated:
            return found
        within: ch.Ranges = ((0x20, 0x7E),) if ascii_only else ch.PRINTABLE
        return ch.common(ch.complement(found), within)

    def _ranges_on(self) -> bool:
        rest = self._pattern[self._at : self._at + 2]
        return rest[:1] == "-" and rest[1:] not in {"", "]"}

    def _class_atom(self, *, negated: bool) -> tuple[ch.Ranges, bool]:
        """Parse one character or escape inside a set such as `[a-z]`; returns the characters that it stands for.

        The second value is whether regular-expression engines disagree on which non-ASCII characters these are.
        `negated`: whether the set begins with `^`.
        """
        sign = self._next()
        if sign != "\\":
            return ((ord(sign), ord(sign)),), False
        if self._take("b"):
            return ((8, 8),), False
        wide = self._pattern[self._at : self._at + 1] in {"d", "w", "D", "W"}
        if negated and self._pattern[self._at : self._at + 1] == "s":
            self._at += 1
            return ch.SPACES, False
        return self._escape(), wide

    def _escape(self) -> ch.Ranges:
        sign = self._next()
        if sign in _WORD:
            return _WORD[sign]
        if sign in {"D", "W"}:
            return ch.common(ch.complement(_WORD[sign.lower()]), ((0x20, 0x7E),))
        if sign == "S":
            return ch.common(ch.complement(ch.SPACES), ch.PRINTABLE)
        if sign in _CONTROLS:
            return ((_CONTROLS[sign], _CONTROLS[sign]),)
        if sign in {"x", "u"}:
            size = 2 if sign == "x" else 4
            digits = self._pattern[self._at : self._at + size]
            if not re.fullmatch(f"[0-9A-Fa-f]{{{size}}}", digits):
                self._refuse(f"the escape '\\{sign}{digits}'")
            self._at += size
            return ((int(digits, 16), int(digits, 16)),)
        if sign.isalnum():
            names = {"b": "a word boundary", "B": "a word boundary", "p": "a Unicode property"}
            kind = "a back-reference" if sign.isdigit() and sign != "0" else "the escape"
            self._refuse(f"{names.get(sign, kind)} '\\{sign}'")
        return ((ord(sign), ord(sign)),)

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            self._refuse("an end too early")
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, sign: str) -> bool:
        if self._pattern.startswith(sign, self._at):
            self._at += len(sign)
            return True
        return False

    def _refuse(self, what: str) -> NoReturn:
        message = f"{what} is not supported in a pattern"
        raise ValueError(message)
