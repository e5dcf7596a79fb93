"""Shared fixtures: the real base model, which `make test` provisions first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mongars.engines.provisioning.cache import find_model
from mongars.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The real base model file."""
    cache = load_settings().cache
    found = find_model(cache, "general")
    if found is None:
        pytest.fail(f"No base model in {cache}. Run: python -m scripts.provision_models")
    return found.path
