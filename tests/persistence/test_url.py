"""Database URLs: accepted forms, refused ones, and hidden passwords."""

from __future__ import annotations

import pytest

from mongars.core.errors import ConfigurationError
from mongars.persistence.config import DatabaseConfig
from mongars.persistence.sql_engines import app_engines
from mongars.persistence.url import app_url, masked, migration_url

POSTGRESQL = "postgresql+psycopg://u:p@db:5432/name"


@pytest.mark.parametrize(
    ("given", "app", "migration"),
    [
        pytest.param("postgres://u:p@db:5432/name", POSTGRESQL, POSTGRESQL, id="postgres"),
        pytest.param("postgresql://u:p@db:5432/name", POSTGRESQL, POSTGRESQL, id="postgresql"),
        pytest.param("postgresql+psycopg2://u:p@db:5432/name", POSTGRESQL, POSTGRESQL, id="2"),
        pytest.param("postgresql+asyncpg://u:p@db:5432/name", POSTGRESQL, POSTGRESQL, id="asyncpg"),
        pytest.param(" postgresql://u:p@db:5432/name\n", POSTGRESQL, POSTGRESQL, id="blanks"),
        pytest.param(
            "postgresql://u@/name?host=/run/pg",
            "postgresql+psycopg://u@/name?host=%2Frun%2Fpg",
            "postgresql+psycopg://u@/name?host=%2Frun%2Fpg",
            id="socket",
        ),
        pytest.param(
            "postgresql://u:p%40%2F%25@db/name?sslmode=require",
            "postgresql+psycopg://u:p%40%2F%25@db/name?sslmode=require",
            "postgresql+psycopg://u:p%40%2F%25@db/name?sslmode=require",
            id="escapes",
        ),
        pytest.param(
            "sqlite:///data/m.db",
            "sqlite+aiosqlite:///data/m.db",
            "sqlite+pysqlite:///data/m.db",
            id="sqlite-relative",
        ),
        pytest.param(
            "sqlite+aiosqlite:////srv/m.db",
            "sqlite+aiosqlite:////srv/m.db",
            "sqlite+pysqlite:////srv/m.db",
            id="sqlite-absolute",
        ),
    ],
)
def test_every_spelling_becomes_one(given: str, app: str, migration: str) -> None:
    """Each usual form of a URL is changed to the drivers that monGARS uses, and the rest of it is kept."""
    assert app_url(given).render_as_string(hide_password=False) == app
    assert migration_url(given).render_as_string(hide_password=False) == migration


@pytest.mark.parametrize(
    "given",
    [
        "",
        "s3cret-not-a-url",
        "mysql://u:s3cret@h/n",
        "postgresql://u:s3cret@h:port/n",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:s3cret?mode=ro&uri=true",
    ],
)
def test_an_unusable_url_is_named_and_not_shown(given: str) -> None:
    """An unusable URL stops the start with an error that names `DATABASE_URL` and does not contain the password."""
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        app_url(given)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://u:s3cret@db/n", "postgresql+psycopg://u:***@db/n"),
        (
            "postgresql://db/n?user=u&password=s3cret",
            "postgresql+psycopg://db/n?password=%2A%2A%2A&user=u",
        ),
        ("sqlite:///m.db", "sqlite+aiosqlite:///m.db"),
    ],
    ids=["userinfo", "query", "none"],
)
def test_logs_never_show_a_password(given: str, shown: str) -> None:
    """The masked URL and the settings' `repr` do not contain the password."""
    assert masked(given) == shown
    assert "s3cret" not in repr(DatabaseConfig(url=given))


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ("ssl=disable", "sslmode"),
        ("pgbouncer=true", "poolers"),
        ("schema=public", "search_path"),
        ("sslmod=require", "sslmode"),
        ("zzz=1", "Leave it out"),
        ("sslmode=require&sslmode=disable", "2 times"),
    ],
)
def test_a_parameter_postgresql_does_not_have_is_named(parameter: str, says: str) -> None:
    """A parameter that PostgreSQL does not have stops the start; a message of one line has its name and what to do."""
    url = f"postgresql://u:s3cret@db/name?{parameter}"
    with pytest.raises(ConfigurationError) as caught:
        app_engines(DatabaseConfig(url=url))
    message = str(caught.value)
    assert parameter.partition("=")[0] in message
    assert says in message
    assert "s3cret" not in message
    assert "\n" not in message
