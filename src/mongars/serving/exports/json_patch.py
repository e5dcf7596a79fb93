"""Compute the difference of two documents as JSON Patch operations (RFC 6902); lists are replaced as a whole."""

from __future__ import annotations

from typing import Any


def difference(before: dict[str, Any], after: dict[str, Any], at: str = "") -> list[dict[str, Any]]:
    """The JSON Patch operations (RFC 6902) that turn `before` into `after`; lists are replaced as a whole.

    `at` is the JSON Pointer of `before` in the document; empty: it is the whole document.
    """
    found: list[dict[str, Any]] = []
    for key in [*before, *(key for key in after if key not in before)]:
        path = f"{at}/{_escaped(key)}"
        old, new = before.get(key), after.get(key)
        if key not in after:
            found.append({"op": "remove", "path": path})
        elif key not in before:
            found.append({"op": "add", "path": path, "value": new})
        elif isinstance(old, dict) and isinstance(new, dict):
            found += difference(old, new, path)
        elif old != new:
            found.append({"op": "replace", "path": path, "value": new})
    return found


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
