"""Writes docs/reference/clients.md: one row per client library, from the tests that ran."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HEAD = """<!-- Written by `make test-clients`; do not edit. -->
# Client libraries

Each library is run against a started stack (`mongars up --no-ray`, the built-in model) with the most common features
of the library. The versions are those of the lock files `requirements/clients.lock`, `requirements/aider.lock` and
`tests/clients/node/package-lock.json`. A feature in the column "Waits for" is not supported yet; its test is expected
to fail until the feature is implemented.

| Library | Version | Works | Waits for |
|---|---|---|---|
"""


class Table:
    """A pytest plugin; a module's `CLIENT` is (order, name, function that returns the version)."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[tuple[int, str, str], list[str]] = defaultdict(list)
        self._waits: dict[tuple[int, str, str], dict[str, list[str]]] = defaultdict(dict)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the feature that each test stands for, and whether it is expected to fail."""
        for item in session.items:
            order, name, version = item.module.CLIENT
            row = (order, name, version())
            mark = item.get_closest_marker("xfail")
            what = _name(item)
            self._rows[row]
            if mark is None:
                self._rows[row].append(what)
            else:
                self._waits[row].setdefault(mark.kwargs["reason"], []).append(what)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the table if all tests passed and a path was given."""
        if self._path is None or exitstatus != 0:
            return
        rows = [
            f"| {name} | {version} | {', '.join(works)} | {_waiting(self._waits[order, name, version])} |\n"
            for (order, name, version), works in sorted(self._rows.items())
        ]
        self._path.write_text(HEAD + "".join(rows))


def _name(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "feature" in callspec.params:
        return str(callspec.params["feature"]).replace("_", " ")
    name: str = getattr(item, "originalname", item.name)
    return name.removeprefix("test_").replace("_", " ")


def _waiting(waits: dict[str, list[str]]) -> str:
    return "; ".join(f"{reason}: {', '.join(what)}" for reason, what in waits.items()) or "-"
