"""The AI SDK; its checks are in node/ai.mjs."""

import pytest
from node_client import COMMON, check, node_version
from waits import TOOLS

CLIENT = (
    9,
    "AI SDK (`ai`, `@ai-sdk/openai-compatible`)",
    lambda: f"{node_version('ai')}, {node_version('@ai-sdk/openai-compatible')}",
)


@pytest.mark.parametrize(
    "feature",
    [
        *COMMON,
        pytest.param("forced_tool_call", marks=TOOLS),
        "embeddings",
        "completions",
    ],
)
def test_check(feature, url, key):
    check("ai", feature, url=url, key=key)
