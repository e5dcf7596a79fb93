"""Grammar expressions for numbers within bounds, built digit by digit, without exponents.

Numbers have at most 15 digits, which a double-precision float represents exactly.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

DIGITS = 15
FRACTION = 6
"""Maximum number of digits after the decimal point, unless `multipleOf` needs more."""
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
MOST_ENDING = 3
"""Maximum number of last digits used to decide whether a number without bounds is a multiple."""
MOST_MULTIPLES = 500
"""Maximum number of multiples within bounds that a grammar lists one by one."""


def number_grammar(schema: dict[str, Any], *, whole: bool) -> str:
    """A grammar expression (GBNF) for the numbers that satisfy the schema's bounds and its `multipleOf`.

    `whole`: integers only. Raises `ValueError` if no number satisfies them, or if their combination is not supported.
    """
    if not whole and not BOUNDS & schema.keys():
        return f'"-"? ("0" | [1-9] [0-9]{{0,{DIGITS - FRACTION - 1}}}) ("." [0-9]{{1,{FRACTION}}})?'
    low, high = _bounds(schema)
    step = Decimal(str(schema["multipleOf"])) if "multipleOf" in schema else None
    places = [0] if whole else range(_decimal_places(step, low, high) + 1)
    if step is not None and not (whole and step == 1) and step != Decimal(1).scaleb(-places[-1]):
        return _multiples(step, low, high, whole=whole)
    found = [_scaled(low, high, place) for place in places]
    if not any(found):
        message = "no number lies within its bounds"
        raise ValueError(message)
    return f"({' | '.join(part for part in found if part)})"


def _bounds(schema: dict[str, Any]) -> tuple[tuple[Decimal, bool], tuple[Decimal, bool]]:
    """The lower and the upper bound of a number schema, each as its value and whether that value itself is excluded.

    Without a bound in the schema, it is -10**15 or 10**15, excluded.
    """
    far = Decimal(10) ** DIGITS
    lows, highs = [(-far, True)], [(far, True)]
    for name, found in (("minimum", lows), ("exclusiveMinimum", lows)):
        if name in schema:
            found.append((Decimal(str(schema[name])), name != "minimum"))
    for name, found in (("maximum", highs), ("exclusiveMaximum", highs)):
        if name in schema:
            found.append((Decimal(str(schema[name])), name != "maximum"))
    return max(lows), min(highs, key=lambda bound: (bound[0], not bound[1]))


def _decimal_places(
    step: Decimal | None, low: tuple[Decimal, bool], high: tuple[Decimal, bool]
) -> int:
    if step is not None:
        return _fraction(step)
    needed = max(_fraction(low[0]), _fraction(high[0]))
    if needed > FRACTION:
        message = f"its bounds have more than {FRACTION} digits after the point"
        raise ValueError(message)
    return min(FRACTION, max(needed + 2, 3))


def _fraction(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _multiples(
    step: Decimal, low: tuple[Decimal, bool], high: tuple[Decimal, bool], *, whole: bool
) -> str:
    first, last = _within(low, high, unit=step)
    if open_ended := _open_multiples(step, first, last):
        return open_ended
    if last - first >= MOST_MULTIPLES:
        message = (
            f"multipleOf needs bounds with at most {MOST_MULTIPLES} multiples between them, a power of"
            f" ten up to 1, or a divisor of {10**MOST_ENDING} and no bounds but 0"
        )
        raise ValueError(message)
    found = [step * index for index in range(first, last + 1)]
    texts = [f'"{number:f}"' for number in found if not whole or number == int(number)]
    if not texts:
        message = "no multiple lies within its bounds"
        raise ValueError(message)
    return f"({' | '.join(texts)})"


def _open_multiples(step: Decimal, first: int, last: int) -> str:
    """A grammar expression for the multiples of `step`, recognised by their last digits.

    `first` and `last`: the first and last multiple, divided by `step`; without a bound, that with the most digits that
    the grammar allows. Only numbers without bounds, or with the lower bound 0 (included or not), are supported: else,
    and if last digits do not identify the multiples, the result is an empty text.
    """
    farthest = 10**DIGITS // step - 1
    if last < farthest or (first not in {0, 1} and first > -farthest):
        return ""
    length = next((n for n in range(1, MOST_ENDING + 1) if 10**n % step == 0), 0)
    if step != int(step) or not length:
        return ""
    endings = range(0, 10**length, int(step))
    small = " | ".join(f'"{number}"' for number in endings if number)
    ending = " | ".join(f'"{number:0{length}}"' for number in endings)
    above = f"{small} | [1-9] [0-9]{{0,{DIGITS - length - 1}}} ({ending})"
    sign = '"-"? ' if first < 0 else ""
    zero = "" if first == 1 else ' | "0"'
    return f"({sign}({above.removeprefix(' | ')}){zero})"


def _within(
    low: tuple[Decimal, bool], high: tuple[Decimal, bool], *, unit: Decimal
) -> tuple[int, int]:
    """The first and the last multiple of `unit` from `low` to `high`, both divided by `unit`.

    `low`, `high`: a bound and whether it is excluded. If there is no such multiple, the first is greater than the last.
    """
    first, last = _floor(low[0] / unit), _floor(high[0] / unit)
    if first * unit < low[0] or (low[1] and first * unit == low[0]):
        first += 1
    if high[1] and last * unit == high[0]:
        last -= 1
    return first, last


def _floor(number: Decimal) -> int:
    return int(number.to_integral_value(rounding="ROUND_FLOOR"))


def _scaled(low: tuple[Decimal, bool], high: tuple[Decimal, bool], point: int) -> str:
    """A grammar expression for the numbers from `low` to `high` with exactly `point` digits after the decimal point.

    `low`, `high`: a bound and whether it is excluded. Empty if there are no such numbers.
    """
    first, last = _within(low, high, unit=Decimal(1).scaleb(-point))
    most = 10**DIGITS - 1
    first, last = max(first, -most), min(last, most)
    parts = []
    if first < 0 and first <= last:
        parts.append(f'"-" ({_natural(max(1, -last), -first, point)})')
    if last >= 0 and first <= last:
        parts.append(_natural(max(0, first), last, point))
    return " | ".join(parts)


def _natural(low: int, high: int, point: int) -> str:
    shortest = max(point + 1, len(str(low)))
    longest = max(point + 1, len(str(high)))
    if longest - shortest > 1 and high == 10**longest - 1:
        # From a certain length on, any digits are allowed: one expression covers those lengths.
        begin = shortest + (low > _first(shortest, point))
        own = _between(str(low).zfill(shortest), "9" * shortest, point) if begin > shortest else ""
        zero = ""
        if begin == point + 1:
            zero, begin = _between("0" * begin, "9" * begin, point), begin + 1
        many = f"[1-9] [0-9]{{{begin - 1 - point},{longest - 1 - point}}}"
        point_part = f' "." [0-9]{{{point}}}' if point else ""
        return " | ".join(part for part in (own, zero, many + point_part) if part)
    parts = []
    for length in range(shortest, longest + 1):
        begin = max(low, _first(length, point))
        end = min(high, 10**length - 1)
        parts.append(_between(str(begin).zfill(length), str(end).zfill(length), point))
    return " | ".join(parts)


def _first(length: int, point: int) -> int:
    return 0 if length == point + 1 else 10 ** (length - 1)


def _between(low: str, high: str, point: int) -> str:
    """A grammar expression for the digit strings from `low` to `high`, which have the same length.

    A decimal point is generated before the last `point` digits.
    """
    length = len(low)
    if not length:
        return '""'
    dot = '"." ' if length == point else ""
    rest = length - 1
    if rest == 0:
        return f"{dot}[{low}-{high}]"
    if low[0] == high[0]:
        return f'{dot}"{low[0]}" {_grouped(_between(low[1:], high[1:], point))}'
    parts = []
    first, last = int(low[0]), int(high[0])
    if low[1:] != "0" * rest:
        parts.append(f'"{first}" {_grouped(_between(low[1:], "9" * rest, point))}')
        first += 1
    tail = ""
    if high[1:] != "9" * rest:
        tail = f'"{last}" {_grouped(_between("0" * rest, high[1:], point))}'
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}] {_free(rest, point)}")
    if tail:
        parts.append(tail)
    return dot + _grouped(" | ".join(parts))


def _free(length: int, point: int) -> str:
    """A grammar expression for `length` arbitrary digits, with a decimal point before the last `point` of them."""
    if not point or length < point:
        return f"[0-9]{{{length}}}"
    before = f"[0-9]{{{length - point}}} " if length > point else ""
    return f'{before}"." [0-9]{{{point}}}'


def _grouped(expression: str) -> str:
    return f"({expression})" if " | " in expression else expression
