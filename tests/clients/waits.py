"""Marks of tests that must fail until a feature exists; strict: a test that passes unexpectedly fails the run."""

import pytest

TOOLS = pytest.mark.xfail(strict=True, reason="tools")
RESPONSES = pytest.mark.xfail(strict=True, reason="the Responses API")
