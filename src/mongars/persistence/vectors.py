"""Converting the column `conversation_history.vector` between pgvector or `real[]` and JSONB, without loss.

The conversion depends on the column's actual type in the database, not on the dialect. Each
direction is one `ALTER COLUMN ... TYPE`: atomic, in the migration's transaction, and under an
ACCESS EXCLUSIVE lock while the table is rewritten (a tenth of a second per few hundred rows; from
about a million rows on, plan a maintenance window).

Some JSON values cannot be written as a float vector: `[]`, JSON `null`, objects, numbers outside single
precision. A downgrade stores these values in a side table, and the next upgrade restores them, unless the
row has been changed in between. JSONB, in turn, has no negative zero: an upgrade stores vectors that contain
one in a second table, and the next downgrade restores them. SQLite stores JSON text at every revision, so
nothing is converted there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mongars.core.errors import ConfigurationError, StorageUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TO_JSONB = {
    "vector": "vector::text::jsonb",  # the text form of pgvector is a JSON array
    "_float4": "to_jsonb(vector)",
    "_float8": "to_jsonb(vector)",
    "json": "vector::jsonb",
    "jsonb": "vector",
}

# NULL for what is no vector of single-precision numbers. The nested CASEs fix the order of
# evaluation, which AND does not: the array functions raise on anything but an array. 16000 is
# pgvector's limit; below 1e-45 single precision knows only zero.
_FLOATS = """
CREATE OR REPLACE FUNCTION pg_temp.mongars_floats(payload jsonb) RETURNS real[]
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN jsonb_typeof(payload) = 'array' THEN
    CASE WHEN jsonb_array_length(payload) BETWEEN 1 AND 16000 THEN
      CASE WHEN (SELECT bool_and(
          CASE WHEN jsonb_typeof(item) = 'number'
               THEN abs((item #>> '{}')::numeric) <= 3.4028235e38 ELSE false END)
        FROM jsonb_array_elements(payload) AS item)
      THEN (SELECT array_agg(
          CASE WHEN abs((item #>> '{}')::numeric) < 1e-45 THEN 0::real
               ELSE (item #>> '{}')::real END ORDER BY place)
        FROM jsonb_array_elements(payload) WITH ORDINALITY AS element(item, place))
      END
    END
  END
$$
"""

_SET_ASIDE = """
CREATE TABLE conversation_history_vector_payloads AS
SELECT id, vector AS payload FROM conversation_history
WHERE vector IS NOT NULL
  AND to_jsonb(pg_temp.mongars_floats(vector)) IS DISTINCT FROM vector
"""

_BRING_BACK = """
UPDATE conversation_history AS h SET vector = s.payload
FROM conversation_history_vector_payloads AS s
WHERE h.id = s.id AND h.vector IS NOT DISTINCT FROM to_jsonb(pg_temp.mongars_floats(s.payload))
"""

_KEEP_ZEROS = """
CREATE TABLE conversation_history_negative_zeros AS
SELECT id, vector::real[] AS floats FROM conversation_history
WHERE vector::real[]::text ~ '[{,]-0[,}]'
"""

_RESTORE_ZEROS = """
UPDATE conversation_history AS h SET vector = z.floats
FROM conversation_history_negative_zeros AS z
WHERE h.id = z.id AND h.vector::real[] = z.floats
"""
"""Restores the vectors with negative zeros. `-0 = 0` in SQL, so equal arrays mean that a row was not changed."""

_INDEXES = """
SELECT DISTINCT i.oid::regclass::text FROM pg_depend d
JOIN pg_class i ON i.oid = d.objid AND i.relkind = 'i'
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = 'conversation_history'::regclass AND a.attname = 'vector'
"""

_VIEWS = """
SELECT DISTINCT r.ev_class::regclass::text FROM pg_depend d
JOIN pg_rewrite r ON r.oid = d.objid
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = 'conversation_history'::regclass AND a.attname = 'vector'
ORDER BY 1
"""

_DROP_DEFAULT = "ALTER TABLE conversation_history ALTER vector DROP DEFAULT"

_TYPE = """
SELECT udt_name FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = 'conversation_history'
  AND column_name = 'vector'
"""


def to_json(connection: Connection) -> None:
    """Convert the column `conversation_history.vector` to JSONB, and restore the values that are no vectors.

    The earlier conversion from JSON to vectors kept these in a second table, which is dropped. Converts nothing if the
    column is JSONB already; does nothing on SQLite. Raises `ConfigurationError` if the column's type cannot be
    converted or a view depends on the column, and `StorageUnavailable` if row counts or checksum differ afterwards. On
    an error the migration's transaction undoes everything.
    """
    if connection.dialect.name != "postgresql":
        return
    kind = _column_type(connection)
    if kind != "jsonb":
        expression = _TO_JSONB[kind]
        before = _fingerprint(connection, expression)
        if kind not in {"json", "jsonb"}:
            _keep_zeros(connection)
        _alter(connection, "jsonb", expression)
        if _fingerprint(connection, "vector") != before:
            msg = "The embeddings changed while they were converted to JSONB; nothing was kept."
            raise StorageUnavailable(msg)
    # Earlier revisions set the default `[]`, which would store an empty embedding instead of none.
    connection.exec_driver_sql(_DROP_DEFAULT)
    _bring_back(connection)


def to_floats(connection: Connection) -> None:
    """Convert the column `conversation_history.vector` from JSON to pgvector's `vector` if available, else to `real[]`.

    Values that are no vector of single-precision numbers are kept as JSON in a second table, for `to_json`. Does
    nothing on SQLite or if the column is no JSON. Raises `ConfigurationError` if the column's type is unknown or a view
    depends on the column.
    """
    if connection.dialect.name != "postgresql":
        return
    kind = _column_type(connection)
    if kind not in {"json", "jsonb"}:
        return
    if kind == "json":
        _alter(connection, "jsonb", _TO_JSONB[kind])
    connection.exec_driver_sql(_FLOATS)
    _drop_aside(connection)
    connection.exec_driver_sql(_SET_ASIDE)
    floats = "pg_temp.mongars_floats(vector)"
    if _have_pgvector(connection):
        _alter(connection, "vector", f"{floats}::vector")
    else:
        _alter(connection, "real[]", floats)
    _restore_zeros(connection)


def pgvector_installed(connection: Connection) -> bool:
    """Whether the extension pgvector is installed in this database."""
    return _exists(connection, "SELECT 1 FROM pg_extension WHERE extname = 'vector'")


def _have_pgvector(connection: Connection) -> bool:
    """Install the extension pgvector in this database if the server offers it; returns whether it is installed then."""
    if pgvector_installed(connection):
        return True
    if not _exists(connection, "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"):
        return False
    try:
        with connection.begin_nested():
            connection.exec_driver_sql("CREATE EXTENSION vector")
    except DBAPIError:  # no privilege to create it: `real[]` holds the same numbers
        return False
    return True


def _column_type(connection: Connection) -> str:
    kind = connection.scalar(text(_TYPE))
    if not isinstance(kind, str) or kind not in _TO_JSONB:
        msg = (
            f"conversation_history.vector has the type {kind!r}, which cannot be converted."
            f" Make it one of {', '.join(_TO_JSONB)} (udt_name) first."
        )
        raise ConfigurationError(msg)
    return kind


def _alter(connection: Connection, kind: str, expression: str) -> None:
    """Change the SQL type of `conversation_history.vector` to `kind`, with values from the SQL `expression`.

    Drops the column's indexes and default, and does not restore them. Raises `ConfigurationError` if a view depends on
    the column.
    """
    views = connection.scalars(text(_VIEWS)).all()
    if views:
        msg = (
            f"These views read conversation_history.vector: {', '.join(views)}."
            " Drop them, migrate, and create them again."
        )
        raise ConfigurationError(msg)
    for index in connection.scalars(text(_INDEXES)).all():
        connection.exec_driver_sql(f"DROP INDEX {index}")
    connection.exec_driver_sql(_DROP_DEFAULT)
    connection.exec_driver_sql(
        f"ALTER TABLE conversation_history ALTER vector TYPE {kind} USING {expression}"
    )


def _keep_zeros(connection: Connection) -> None:
    connection.exec_driver_sql("DROP TABLE IF EXISTS conversation_history_negative_zeros")
    connection.exec_driver_sql(_KEEP_ZEROS)
    if not _exists(connection, "SELECT id FROM conversation_history_negative_zeros LIMIT 1"):
        connection.exec_driver_sql("DROP TABLE conversation_history_negative_zeros")


def _restore_zeros(connection: Connection) -> None:
    if _exists(connection, "SELECT to_regclass('conversation_history_negative_zeros')"):
        connection.exec_driver_sql(_RESTORE_ZEROS)
        connection.exec_driver_sql("DROP TABLE conversation_history_negative_zeros")


def _bring_back(connection: Connection) -> None:
    if _exists(connection, "SELECT to_regclass('conversation_history_vector_payloads')"):
        connection.exec_driver_sql(_FLOATS)
        connection.exec_driver_sql(_BRING_BACK)
        _drop_aside(connection)


def _drop_aside(connection: Connection) -> None:
    connection.exec_driver_sql("DROP TABLE IF EXISTS conversation_history_vector_payloads")


def _fingerprint(connection: Connection, expression: str) -> tuple[object, ...]:
    """Values that are equal before and after a correct conversion of `conversation_history.vector`.

    They are the number of rows, the number of rows with a vector, and a checksum over all vectors as JSON text.
    `expression` is the SQL expression that gives a row's vector as JSON.
    """
    query = (
        "SELECT count(*), count(v), sum(hashtextextended(v::text, id)::numeric)"  # noqa: S608
        f" FROM (SELECT id, {expression} AS v FROM conversation_history) AS vectors"
    )
    return tuple(connection.exec_driver_sql(query).one())


def _exists(connection: Connection, query: str) -> bool:
    return connection.scalar(text(query)) is not None
