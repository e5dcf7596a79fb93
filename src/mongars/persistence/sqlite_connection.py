"""SQLite's connection, made to let go when it is closed.

SQLite keeps a closed connection, with its transaction and its locks, until the last unfinished
cursor on it is gone. A cancelled task leaves such a cursor in its traceback, for the garbage
collector to find much later, and until then no connection could write.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any
from weakref import WeakSet


class LettingGo(sqlite3.Connection):
    """A connection whose cursors and transaction end, undone, with `close`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - the driver's own
        super().__init__(*arguments, **options)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()
        self._closed = False

    def cursor(self) -> sqlite3.Cursor:  # type: ignore[override]  # no caller passes a factory
        """A cursor that does not outlive the connection."""
        cursor = super().cursor()
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        """Undo what was not committed and free every lock; again does nothing.

        aiosqlite calls this in the connection's thread, after whatever was still running there.
        """
        if self._closed:
            return
        self._closed = True
        try:
            for cursor in tuple(self._cursors):
                cursor.close()
            with suppress(sqlite3.Error):  # a file that fails now is closed all the same
                self.rollback()
        finally:
            super().close()
