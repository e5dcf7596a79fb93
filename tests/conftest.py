"""Shared fixtures: the real base model, provisioned once per machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The real base model file, from the model cache (`make test` provisions it first)."""
    return Path(os.environ["MONGARS_TEST_MODEL"])  # noqa: TID251
