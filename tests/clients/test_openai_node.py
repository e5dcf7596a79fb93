"""The official Node client; its checks are in node/openai.mjs."""

import pytest
from node_client import COMMON, check, node_version
from waits import RESPONSES, TOOLS

CLIENT = (2, "openai (Node)", lambda: node_version("openai"))


@pytest.mark.parametrize(
    "feature",
    [
        *COMMON,
        "models",
        "json_mode",
        pytest.param("forced_tool_call", marks=TOOLS),
        "embeddings",
        "completions",
        pytest.param("responses", marks=RESPONSES),
    ],
)
def test_check(feature, url, key):
    check("openai", feature, url=url, key=key)
