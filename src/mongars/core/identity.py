"""Who is asking."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller. `username` is the owner of everything the call stores."""

    username: str
    is_admin: bool = False
