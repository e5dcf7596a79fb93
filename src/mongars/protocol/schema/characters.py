"""Sets of characters as expressions of llama.cpp's grammars (GBNF), escaped as required inside a JSON string."""

from __future__ import annotations

Ranges = tuple[tuple[int, int], ...]
"""A set of characters: ranges of code points, both ends included, sorted and without overlap."""

LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_BYTE = 0x100
_ESCAPED = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}
"""The characters, by code point, that have a short escape sequence in JSON, and that sequence."""


def united(*sets: Ranges) -> Ranges:
    """The union of the sets of characters, each given as ranges of code points, both ends included.

    The ranges of the result are sorted and do not overlap.
    """
    found: list[tuple[int, int]] = []
    for low, high in sorted(entry for each in sets for entry in each):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def complement(ranges: Ranges, *, last: int = LAST) -> Ranges:
    """All characters up to and including the code point `last` that are not in the set `ranges`.

    Sets are sorted ranges of code points without overlap, both ends included.
    """
    found, begin = [], 0
    for low, high in ranges:
        if low > begin:
            found.append((begin, min(low - 1, last)))
        begin = high + 1
    if begin <= last:
        found.append((begin, last))
    return tuple((low, high) for low, high in found if low <= high)


def common(first: Ranges, second: Ranges) -> Ranges:
    """The intersection of two character sets, which are sorted ranges of code points, both ends included."""
    return complement(united(complement(first), complement(second)))


DIGITS: Ranges = ((0x30, 0x39),)
WORDS: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACES: Ranges = united(
    ((0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680)),
    ((0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F)),
    ((0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
BLANKS: Ranges = ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x20))
r"""The white space that is generated for `\s` in a pattern."""
PRINTABLE: Ranges = ((0x20, 0x7E), (0xA0, LAST))
"""Printable characters: only these are generated for a negated set such as `[^a]`."""
_PLAIN = complement(united(((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x9F)), (_SURROGATES,)))
"""The characters that are written in JSON without an escape. Control characters are never generated."""


def class_of(ranges: Ranges) -> str:
    """A grammar expression (GBNF) for any one character of the set, as it is written inside a JSON string.

    `ranges`: ranges of code points, both ends included. Empty if the set contains only characters that are never
    generated, such as most control characters.
    """
    plain = common(ranges, _PLAIN)
    choices = [f"[{''.join(map(_range, plain))}]"] if plain else []
    for code, escape in _ESCAPED.items():
        if any(low <= code <= high for low, high in ranges):
            choices.append(literal(escape))
    return choices[0] if len(choices) == 1 else f"({' | '.join(choices)})" if choices else ""


def literal(text: str) -> str:
    """A grammar expression (GBNF) that generates exactly `text`: a quoted string with escapes."""
    return '"' + "".join(map(_quoted, text)) + '"'


def in_json(text: str) -> str:
    """The text as it is written inside a JSON string, with escapes for quotes, backslashes, line ends and tabs.

    Other control characters are not escaped.
    """
    return "".join(_ESCAPED.get(ord(sign), sign) for sign in text)


def _quoted(sign: str) -> str:
    if sign in '"\\':
        return "\\" + sign
    return sign if sign.isprintable() else _code(ord(sign))


def _range(entry: tuple[int, int]) -> str:
    low, high = entry
    return _code(low) if low == high else f"{_code(low)}-{_code(high)}"


def _code(code: int) -> str:
    sign = chr(code)
    if sign.isascii() and sign.isalnum():
        return sign
    return f"\\x{code:02X}" if code < _BYTE else f"\\U{code:08X}"
