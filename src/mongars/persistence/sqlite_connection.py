"""A SQLite connection that releases its locks when it is closed.

SQLite keeps a closed connection, with its transaction and its locks, until the last unfinished
cursor on it is freed. A cancelled task leaves such a cursor in its traceback, which the garbage
collector frees much later; until then no other connection could write.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any
from weakref import WeakSet


class LettingGo(sqlite3.Connection):
    """A SQLite connection whose `close` also closes its cursors and rolls back its transaction: it frees its locks."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - the driver's own
        super().__init__(*arguments, **options)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()
        self._closed = False

    def cursor(self) -> sqlite3.Cursor:  # type: ignore[override]  # no caller passes a factory
        """A new cursor on this connection; closing the connection closes it."""
        cursor = super().cursor()
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        """Close this connection: roll back what was not committed, and release all locks. A second call does nothing.

        aiosqlite calls this in the connection's thread, after all earlier calls there.
        """
        if self._closed:
            return
        self._closed = True
        try:
            for cursor in tuple(self._cursors):
                cursor.close()
            with suppress(sqlite3.Error):  # close the file even if the rollback fails
                self.rollback()
        finally:
            super().close()
