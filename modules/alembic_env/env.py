"""Alembic's entry for the `alembic` command: the database the settings name."""

from __future__ import annotations

import sys

from mongars.core.errors import MongarsError
from mongars.persistence.migration_run import run_env
from mongars.settings import load_settings

try:
    run_env(load_settings().database())
except MongarsError as error:
    sys.exit(f"error: {error}")
