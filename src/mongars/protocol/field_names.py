"""Rename the fields in errors: engines and providers name those of OpenAI's chat protocol, clients may use others."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from mongars.core.errors import CallerError, GenerationInterrupted, MongarsError

if TYPE_CHECKING:
    from collections.abc import Mapping

ErrorT = TypeVar("ErrorT", bound=MongarsError)


def renamed(error: ErrorT, names: Mapping[str, str]) -> ErrorT:
    """`error` as a client sees it whose request has other field names: both in `param` and in the message.

    `names`: the client's name of a field by the name in OpenAI's chat protocol. Returns `error` itself if it names none
    of these fields, else a changed copy.
    """
    if isinstance(error, CallerError):
        if error.param not in names:
            return error
    elif not isinstance(error, GenerationInterrupted):
        return error
    found = copy.copy(error)
    for ours, theirs in names.items():
        found.detail = _mention(ours).sub(theirs, found.detail)
    found.args = (found.detail,)
    if isinstance(found, CallerError):
        found.param = names[str(found.param)]
    return found


@lru_cache(maxsize=64)
def _mention(field: str) -> re.Pattern[str]:
    """Matches the name of a field in an error message, but not the same word in a sentence, such as `stop`."""
    anywhere = rf"|\b{field}\b" if "_" in field else ""
    return re.compile(rf"^{field}(?=:)|(?<=\bthe ){field}\b{anywhere}")
