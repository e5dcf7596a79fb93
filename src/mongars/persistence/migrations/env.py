"""Alembic's entry point for the migrations that `mongars.persistence.migrate` runs."""

from __future__ import annotations

from alembic import context

from mongars.persistence.migration_run import DATABASE, run_env

run_env(context.config.attributes[DATABASE])
