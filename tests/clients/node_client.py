"""Runs checks that are written for Node."""

import json
from pathlib import Path

from program import run_program

COMMON = (
    "chat",
    "streaming_with_usage",
    "aborted_stream",
    "system_message_and_several_turns",
    "context_exceeded",
    "wrong_key",
    "unknown_model",
    "timeout",
    "structured_output",
    "tools_answered_with_text",
)
FOLDER = Path(__file__).parent / "node"


def node_version(package: str) -> str:
    """The installed version of a Node package."""
    manifest = FOLDER / "node_modules" / package / "package.json"
    version: str = json.loads(manifest.read_text())["version"]
    return version


def check(library: str, feature: str, *, url: str, key: str) -> None:
    """Run one check of `node/LIBRARY.mjs`."""
    command = ["node", "run.mjs", library, feature]
    found = run_program(command, folder=FOLDER, MONGARS_URL=url, MONGARS_KEY=key)
    assert found.returncode == 0, found.stderr
