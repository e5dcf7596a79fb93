"""Converting errors of the database driver to `StorageUnavailable`.

Errors are distinguished by the codes of SQLite and PostgreSQL, not by their texts (with one exception). The
messages are monGARS' own and may be shown to clients: a driver's text may contain hosts, files and values.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import exc

from mongars.core.errors import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNREACHABLE = "The database cannot be reached."
_LOCKED = "The database is locked by another writer. Try again."
_READ_ONLY = "The database is read-only and cannot store anything."
_FULL = "The database's disk is full."
_FAILING = "The database's storage is failing or damaged."
_SLOW = "The database took too long to answer."
_OLD = "The database lacks a table or column; run init_db.py."
_POOLED = (
    "A connection pooler hands prepared statements to the wrong connection."
    " Set DB_PREPARED_STATEMENTS=false."
)
_FORBIDDEN = "The database user lacks a privilege it needs."
_TAKEN = "Every database connection is taken. Try again."

_SQLITE = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _FAILING,
    sqlite3.SQLITE_CORRUPT: _FAILING,
    sqlite3.SQLITE_NOTADB: "The database file is no SQLite database.",
    sqlite3.SQLITE_CANTOPEN: "The database file cannot be opened.",
}

# Whole SQLSTATE codes first, then classes (their first two characters).
_POSTGRESQL = {
    "25006": _READ_ONLY,
    "26000": _POOLED,
    "42P05": _POOLED,
    "42501": _FORBIDDEN,
    "42P01": _OLD,
    "42703": _OLD,
    "53100": _FULL,
    "55P03": _LOCKED,
    "57014": _SLOW,
    "08": _UNREACHABLE,
    "28": _UNREACHABLE,
    "3D": _UNREACHABLE,
    "40": _LOCKED,
    "53": _TAKEN,
    "57": _UNREACHABLE,
    "58": _FAILING,
    "F0": _FAILING,
    "XX": _FAILING,
}


@contextmanager
def storage_errors() -> Iterator[None]:
    """A context manager that converts failures of the database in its block to `StorageUnavailable`.

    The driver's exception is the cause. Failures are, for example, a lost connection, a lock timeout or a full disk.
    Violated constraints and invalid SQL are raised unchanged.
    """
    try:
        yield
    except exc.TimeoutError as error:  # of the connection pool: no free connection in time
        raise StorageUnavailable(_TAKEN) from error
    except exc.DBAPIError as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        raise StorageUnavailable(sentence) from error


def _sentence(error: exc.DBAPIError) -> str | None:
    """The message for clients about `error`, raised by the database; None for a violated constraint or invalid SQL."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_sentence(error.orig)
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])
    # Errors without a code are refused, closed or lost connections.
    is_link = isinstance(error, exc.OperationalError | exc.InterfaceError)
    return _UNREACHABLE if is_link else None


def _sqlite_sentence(error: sqlite3.Error) -> str | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by Python's driver itself
        return None
    if code == sqlite3.SQLITE_ERROR and str(error).startswith(("no such table", "no such column")):
        return _OLD  # SQLite has no separate code for this case
    return _SQLITE.get(code & 0xFF)  # the low byte; the rest of an extended code is detail
