"""What tests wait for. Strict: once it is there, the test says so by passing."""

import pytest

TOOLS = pytest.mark.xfail(strict=True, reason="tools")
RESPONSES = pytest.mark.xfail(strict=True, reason="the Responses API")
