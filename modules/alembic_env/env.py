"""Alembic's entry for the `alembic` command: the database the settings name."""

from __future__ import annotations

from mongars.persistence.environment import run_env
from mongars.settings import load_settings

run_env(load_settings().database())
