"""Alembic's entry for migrations the program runs itself (see `mongars.persistence.migrate`)."""

from __future__ import annotations

from alembic import context

from mongars.persistence.migration_run import DATABASE, run_env

run_env(context.config.attributes[DATABASE])
