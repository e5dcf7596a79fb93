"""The keyword `format`: the pattern by which texts of each format are generated, and the check of a text."""

from __future__ import annotations

import ipaddress
import re
from datetime import date, datetime
from urllib.parse import urlsplit
from uuid import UUID

from jsonschema import FormatChecker

_MONTHS = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
_DATE = rf"(19|20)[0-9]{{2}}-({_MONTHS}|02-(0[1-9]|1[0-9]|2[0-8]))"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{3})?(Z|[+-]0[0-9]:[03]0)"
_LABEL = r"[a-z0-9]{1,20}(-[a-z0-9]{1,20})?"
_HOST = rf"{_LABEL}(\.{_LABEL}){{1,3}}"
_NUMBER = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9][0-9]|[0-9])"

PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"({_DATE})T{_TIME}",
    "duration": r"P([0-9]{1,4}D(T[0-9]{1,3}[HM])?|T[0-9]{1,4}[HMS])",
    "email": rf"[A-Za-z0-9]{{1,20}}([._+-][A-Za-z0-9]{{1,20}}){{0,3}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": rf"{_NUMBER}(\.{_NUMBER}){{3}}",
    "ipv6": "[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}",
    "uri": rf"https?://{_HOST}(/[A-Za-z0-9._~-]{{0,40}}){{0,6}}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}
"""A regular expression for each format. It matches only texts of the format, but not all of them."""

FREE = frozenset({"binary", "password", "path", "file-path", "directory-path", "multiline"})
"""Formats that describe the purpose of a text but do not restrict it."""

checker = FormatChecker(formats=())
"""Checks whether complete texts have the format that the schema demands."""


def _parses(parse: object, text: object) -> bool:
    if not isinstance(text, str):
        return True
    try:
        return bool(parse(text))  # type: ignore[operator] # one of the functions below
    except ValueError:
        return False


def _date_time(text: str) -> bool:
    return "T" in text.upper() and datetime.fromisoformat(text).tzinfo is not None


def _time(text: str) -> bool:
    return datetime.fromisoformat(f"2000-01-01T{text}").tzinfo is not None


def _date(text: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text) is not None and bool(date.fromisoformat(text))


def _matches(pattern: str) -> object:
    return lambda text: re.fullmatch(pattern, text) is not None


_CHECKS = {
    "date": _date,
    "time": _time,
    "date-time": _date_time,
    "duration": _matches(r"P(?=.)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?"),
    "email": _matches(r"[^@\s]+@[^@\s]+"),
    "hostname": _matches(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uri": lambda text: urlsplit(text).scheme != "",
    "uuid": lambda text: len(text) == 36 and UUID(text),  # noqa: PLR2004
}
for _name, _check in _CHECKS.items():
    checker.checks(_name)(lambda text, check=_check: _parses(check, text))
