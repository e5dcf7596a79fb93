"""Migration of stored vectors between JSON, pgvector and arrays, without losing a value."""

from __future__ import annotations

import json
import random
import struct
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from mongars.core.errors import ConfigurationError
from mongars.persistence.config import DatabaseConfig
from mongars.persistence.migrate import current, downgrade, upgrade
from mongars.persistence.sql_engines import migration_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Postgres

ROLLBACK = "20250108_03"

UNUSUAL = {
    "null": None,
    "empty": "[]",
    "json null": "null",
    "object": '{"not": "a vector"}',
    "text": '"[1]"',
    "hole": "[1, null, 3]",
    "nested": "[[1], [2]]",
    "too large": "[1, 1e300]",
    "too small": "[1, 1e-50]",
    "too precise": "[0.12345678901234567]",
    "too long": json.dumps([1.5] * 16001),
    "one": "[0.5]",
    "three": "[1, -2, 3e3]",
    "limits": "[1e-45, 3.4028235e+38, -3.4028235e+38, 1.1754944e-38]",
    "old size": json.dumps([0.25] * 3072),
}


def run(config: DatabaseConfig, *statements: str, **values: object) -> None:
    """Run statements in one transaction."""
    with migration_engine(config).begin() as connection:
        for statement in statements:
            connection.execute(text(statement), values)


def store(config: DatabaseConfig, payloads: dict[str, str | None]) -> None:
    """Insert one row per payload; the payload's name is the row's `query`."""
    kind = "TEXT" if config.url.startswith("sqlite") else "JSONB"
    column = f"CAST(:payload AS {kind})"
    insert = f"INSERT INTO conversation_history (query, vector) VALUES (:name, {column})"  # noqa: S608
    rows = [{"name": name, "payload": payload} for name, payload in payloads.items()]
    with migration_engine(config).begin() as connection:
        connection.execute(text(insert), rows)


def stored(config: DatabaseConfig) -> dict[str, str | None]:
    """The text of every stored vector, by the row's `query`."""
    query = "SELECT query, CAST(vector AS TEXT) FROM conversation_history"
    with migration_engine(config).begin() as connection:
        return {row[0]: row[1] for row in connection.execute(text(query))}


def values(payloads: dict[str, str | None]) -> dict[str, object]:
    """The payloads as parsed values; `...` for SQL NULL, to differ from JSON null."""
    return {
        name: ... if payload is None else json.loads(payload, parse_int=float)
        for name, payload in payloads.items()
    }


def column_type(config: DatabaseConfig) -> str:
    """The PostgreSQL type of the column `vector`."""
    query = (
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'conversation_history'::regclass AND attname = 'vector'"
    )
    with migration_engine(config).begin() as connection:
        return str(connection.scalar(text(query)))


def float32s(count: int) -> list[float]:
    """Finite single-precision numbers other than 0, of every magnitude."""
    source = random.Random(20250130)  # noqa: S311
    found: list[float] = []
    while len(found) < count:
        (number,) = struct.unpack("<f", source.randbytes(4))
        if number == number and abs(number) != float("inf") and number != 0:  # noqa: PLR0124
            found.append(number)
    return found


def bits(payload: str | None) -> bytes:
    """The single-precision bytes of a vector."""
    numbers = json.loads(payload or "[]")
    return struct.pack(f"<{len(numbers)}f", *numbers)


def shortest(number: float) -> str:
    """The shortest decimal number that is read as this single-precision number."""
    for digits in range(1, 18):
        candidate = f"{number:.{digits}g}"
        if struct.pack("<f", float(candidate)) == struct.pack("<f", number):
            return candidate
    return repr(number)


def test_a_rollback_and_return_lose_no_payload(config: DatabaseConfig) -> None:
    """A downgrade and an upgrade keep every vector: NULL, `[]`, odd lengths and values that no float can hold."""
    upgrade(config)
    store(config, UNUSUAL)
    downgrade(config, ROLLBACK)
    upgrade(config)
    assert values(stored(config)) == values(UNUSUAL)


def test_float32_vectors_survive_bit_for_bit(config: DatabaseConfig) -> None:
    """Single-precision vectors keep every bit through two downgrades and upgrades."""
    upgrade(config)
    rows = {str(i): float32s(384 * 8)[i * 384 : (i + 1) * 384] for i in range(8)}
    store(config, {name: f"[{','.join(map(shortest, row))}]" for name, row in rows.items()})
    for _ in range(2):
        downgrade(config, ROLLBACK)
        upgrade(config)
    found = {name: bits(payload) for name, payload in stored(config).items()}
    assert found == {name: struct.pack("<384f", *row) for name, row in rows.items()}


@pytest.mark.parametrize(("kind", "expected"), [("pgvector", "vector"), ("postgresql", "real[]")])
def test_a_rollback_uses_what_the_server_has(
    kind: str, expected: str, make_config: Callable[[str], DatabaseConfig]
) -> None:
    """After a downgrade the column has pgvector's type if the server offers pgvector, otherwise it is `real[]`."""
    config = make_config(kind)
    upgrade(config)
    store(config, {"one": "[1, 2.5]", "none": None, "empty": "[]"})
    assert column_type(config) == "jsonb"
    downgrade(config, ROLLBACK)
    assert column_type(config) == expected
    shown = {name: payload and payload.strip("[]{}") for name, payload in stored(config).items()}
    assert shown == {"one": "1,2.5", "none": None, "empty": None}


def test_without_the_privilege_a_rollback_takes_arrays(postgres: Postgres) -> None:
    """If the role may not create the extension pgvector, the downgrade succeeds with `real[]`."""
    admin = DatabaseConfig(url=postgres.database(pgvector=True))
    run(
        admin,
        "DROP ROLE IF EXISTS plain",
        "CREATE ROLE plain LOGIN",
        "GRANT ALL ON SCHEMA public TO plain",
    )
    config = DatabaseConfig(url=admin.url.replace("postgres:@", "plain:@"))
    upgrade(config)
    store(config, {"one": "[1, 2.5]"})
    downgrade(config, ROLLBACK)
    assert column_type(config) == "real[]"
    upgrade(config)
    assert values(stored(config)) == {"one": [1, 2.5]}


@pytest.mark.parametrize("kind", ["pgvector", "postgresql"])
def test_what_changed_after_the_rollback_wins(
    kind: str, make_config: Callable[[str], DatabaseConfig]
) -> None:
    """After a downgrade and an upgrade, an original vector is restored only if the row's vector was not changed."""
    config = make_config(kind)
    upgrade(config)
    store(config, {"kept": "[]", "changed": "[]", "removed": "[]"})
    downgrade(config, ROLLBACK)
    literal = "'[7, 8]'" if kind == "pgvector" else "'{7, 8}'"
    run(
        config,
        f"UPDATE conversation_history SET vector = {literal} WHERE query = 'changed'",  # noqa: S608
        "DELETE FROM conversation_history WHERE query = 'removed'",
    )
    upgrade(config)
    assert values(stored(config)) == {"kept": [], "changed": [7, 8]}


@pytest.mark.parametrize("kind", ["postgresql", "pgvector"])
def test_negative_zeros_survive_the_conversion(
    kind: str, make_config: Callable[[str], DatabaseConfig]
) -> None:
    """A downgrade restores negative zeros, which JSONB cannot store, in vectors that were not changed meanwhile."""
    config = make_config(kind)
    if kind == "pgvector":
        run(config, "CREATE EXTENSION vector")
    upgrade(config, ROLLBACK)
    column = "vector(3)" if kind == "pgvector" else "real[]"
    literal = "[{}]" if kind == "pgvector" else "{{{}}}"
    run(config, f"ALTER TABLE conversation_history ALTER vector TYPE {column} USING NULL")
    rows = {"zeros": "-0,1,-0", "plain": "0,1,-10", "changed": "-0,2,3"}
    for name, numbers in rows.items():
        run(
            config,
            f"INSERT INTO conversation_history (query, vector)"  # noqa: S608
            f" VALUES (:name, CAST(:vector AS {column}))",
            name=name,
            vector=literal.format(numbers),
        )
    upgrade(config)
    assert values(stored(config))["zeros"] == [0, 1, 0]
    run(config, "UPDATE conversation_history SET vector = '[7,8,9]' WHERE query = 'changed'")
    downgrade(config, ROLLBACK)
    wanted = {"zeros": "-0,1,-0", "plain": "0,1,-10", "changed": "7,8,9"}
    assert stored(config) == {name: literal.format(row) for name, row in wanted.items()}
    upgrade(config)
    downgrade(config, ROLLBACK)
    assert stored(config)["zeros"] == literal.format("-0,1,-0")


@pytest.fixture
def pgvector_config(make_config: Callable[[str], DatabaseConfig]) -> DatabaseConfig:
    """A database in which the extension pgvector is created, as the earlier program did."""
    config = make_config("pgvector")
    run(config, "CREATE EXTENSION vector")
    return config


@pytest.mark.parametrize("revision", ["20250108_03", "20250308_01", "20251004_01"])
def test_an_earlier_pgvector_database_becomes_json(
    revision: str, pgvector_config: DatabaseConfig
) -> None:
    """A pgvector column of any earlier revision, indexes included, becomes JSONB at the newest revision."""
    upgrade(pgvector_config, revision)
    run(
        pgvector_config,
        "ALTER TABLE conversation_history ALTER vector TYPE vector(4) USING NULL",
        "INSERT INTO conversation_history (query, vector) VALUES ('a', '[1,0.1,-3e-5,4]')",
        "INSERT INTO conversation_history (query) VALUES ('b')",
        "CREATE INDEX ix_conversation_history_vector_cosine ON conversation_history"
        " USING hnsw (vector vector_cosine_ops)",
        "CREATE INDEX by_expression ON conversation_history"
        " USING hnsw ((vector::halfvec(4)) halfvec_l2_ops)",
    )
    upgrade(pgvector_config)
    assert column_type(pgvector_config) == "jsonb"
    assert values(stored(pgvector_config)) == {"a": [1, 0.1, -3e-5, 4], "b": ...}


def test_the_initial_column_is_the_published_one(pgvector_config: DatabaseConfig) -> None:
    """If pgvector is created already, the documented revision makes the column `vector(3072)`."""
    upgrade(pgvector_config, ROLLBACK)
    assert column_type(pgvector_config) == "vector(3072)"


@pytest.mark.parametrize("kind", ["json", "jsonb", "double precision[]"])
def test_other_json_and_arrays_become_jsonb(
    kind: str, make_config: Callable[[str], DatabaseConfig]
) -> None:
    """Columns of JSON, JSONB or double arrays become JSONB with their values, and their default is dropped."""
    config = make_config("postgresql")
    upgrade(config, "20250130_01")
    literal = "'{1.5}'" if kind.startswith("double") else "'[1.5]'"
    run(
        config,
        f"ALTER TABLE conversation_history ALTER vector TYPE {kind} USING NULL",
        f"ALTER TABLE conversation_history ALTER vector SET DEFAULT {literal}",
        "INSERT INTO conversation_history (query) VALUES ('defaulted')",
    )
    upgrade(config)
    run(config, "INSERT INTO conversation_history (query) VALUES ('new')")
    assert values(stored(config)) == {"defaulted": [1.5], "new": ...}


def test_a_view_in_the_way_is_named(pgvector_config: DatabaseConfig) -> None:
    """A view on the column stops the migration with an error that names the view, and nothing is changed."""
    upgrade(pgvector_config, ROLLBACK)
    run(pgvector_config, "CREATE VIEW watching AS SELECT vector FROM conversation_history")
    with pytest.raises(ConfigurationError, match="watching"):
        upgrade(pgvector_config)
    assert current(pgvector_config) == ROLLBACK
    assert column_type(pgvector_config) == "vector(3072)"


def test_an_unknown_type_is_refused(make_config: Callable[[str], DatabaseConfig]) -> None:
    """A column of an unknown type is refused with an error that names the type, and nothing is changed."""
    config = make_config("postgresql")
    upgrade(config, ROLLBACK)
    run(config, "ALTER TABLE conversation_history ALTER vector TYPE bytea USING NULL")
    with pytest.raises(ConfigurationError, match="bytea"):
        upgrade(config)
    assert current(config) == ROLLBACK
