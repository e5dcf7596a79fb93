"""Shared fixtures: the real base model, which `make test` provisions first."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from mongars.engines.provisioning.model_cache import find_model
from mongars.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


def pytest_configure() -> None:
    """Restore Ctrl-C (SIGINT) handling, so that programs started by tests can be interrupted.

    A shell without job control starts its background jobs with SIGINT ignored, and child processes
    inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The path of the real base model file."""
    cache = load_settings().cache
    found = find_model(cache, "general")
    if found is None:
        pytest.fail(f"No base model in {cache}. Run: python -m scripts.provision_models")
    return found.path
