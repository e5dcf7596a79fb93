"""Random texts that a grammar in llama.cpp's notation allows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_TOKEN = re.compile(
    r'\s*("(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[a-z]+(?:-\d+)?|[()|?]|\{\d+(?:,\d+)?\})'
)
_ESCAPE = re.compile(r"\\(U[0-9A-F]{8}|x[0-9A-F]{2}|.)", re.DOTALL)
_LONG = 6
"""If the greatest number of repetitions exceeds the least by more, only a few of the numbers are drawn."""


class Writer:
    """A grammar and a source of random numbers."""

    def __init__(self, grammar: str, random: Random) -> None:
        self._random = random
        self._rules: dict[str, list[str]] = {}
        self._depth = 0
        for line in grammar.splitlines():
            name, body = line.split(" ::= ", 1)
            tokens = _TOKEN.findall(body)
            assert "".join(tokens) == re.sub(r"\s", "", body) or '"' in body or "[" in body
            self._rules[name] = tokens

    def text(self) -> str:
        """A random text that the grammar allows."""
        return self._rule("root")

    def _rule(self, name: str) -> str:
        self._depth += 1
        tokens = self._rules[name]
        text, end = self._choice(tokens, 0)
        assert end == len(tokens), (name, tokens[end:])
        self._depth -= 1
        return text

    def _choice(self, tokens: list[str], at: int) -> tuple[str, int]:
        # Each alternative is drawn with the same probability, so all of them are parsed first.
        spans, begin, depth = [], at, 0
        while at < len(tokens) and (depth or tokens[at] != ")"):
            depth += (tokens[at] == "(") - (tokens[at] == ")")
            if tokens[at] == "|" and not depth:
                spans.append((begin, at))
                begin = at + 1
            at += 1
        spans.append((begin, at))
        first, last = self._random.choice(spans) if self._depth < 40 else spans[0]
        return self._sequence(tokens[first:last]), at

    def _sequence(self, tokens: list[str]) -> str:
        found, at = [], 0
        while at < len(tokens):
            begin = at
            at = _closing(tokens, at) + 1 if tokens[at] == "(" else at + 1
            unit = tokens[begin:at]
            low = high = 1
            if at < len(tokens) and (tokens[at] == "?" or tokens[at][0] == "{"):
                low, high = _times(tokens[at])
                at += 1
            found += [self._unit(unit) for _ in range(self._count(low, high))]
        return "".join(found)

    def _count(self, low: int, high: int) -> int:
        if self._depth > 12:
            return low
        if high - low > _LONG:
            return self._random.choice(
                [low, low + 1, low + 2, high if self._depth < 5 else low + 3]
            )
        return self._random.randint(low, high)

    def _unit(self, tokens: list[str]) -> str:
        first = tokens[0]
        if first == "(":
            return self._choice(tokens[1:-1], 0)[0]
        if first[0] == '"':
            return _ESCAPE.sub(_plain, first[1:-1])
        if first[0] == "[":
            return self._class(first[1:-1])
        return self._rule(first)

    def _class(self, body: str) -> str:
        negated = body.startswith("^")
        ranges = _ranges(body[1:] if negated else body)
        if not negated:
            low, high = self._random.choice(ranges)
            return chr(self._random.choice([low, high, self._random.randint(low, high)]))
        drawn = [*range(0x20, 0x17F), 0x2028, 0xFFFF, 0x1F600, 0x661]
        return chr(
            self._random.choice([c for c in drawn if not any(a <= c <= b for a, b in ranges)])
        )


def _closing(tokens: list[str], at: int) -> int:
    depth = 0
    while True:
        depth += (tokens[at] == "(") - (tokens[at] == ")")
        if not depth:
            return at
        at += 1


def _times(token: str) -> tuple[int, int]:
    if token == "?":
        return 0, 1
    low, _, high = token[1:-1].partition(",")
    return int(low), int(high or low)


def _plain(found: re.Match[str]) -> str:
    sign = found[1]
    if len(sign) > 1:
        return chr(int(sign[1:], 16))
    return {"n": "\n", "t": "\t", "r": "\r"}.get(sign, sign)


def _ranges(body: str) -> list[tuple[int, int]]:
    signs = [_plain(f) if (f := _ESCAPE.match(p)) else p for p in _pieces(body)]
    found, at = [], 0
    while at < len(signs):
        if at + 2 < len(signs) and signs[at + 1] == "-":
            found.append((ord(signs[at]), ord(signs[at + 2])))
            at += 3
        else:
            found.append((ord(signs[at]), ord(signs[at])))
            at += 1
    return found


def _pieces(body: str) -> list[str]:
    return re.findall(r"\\U[0-9A-F]{8}|\\x[0-9A-F]{2}|\\.|.", body, re.DOTALL)
