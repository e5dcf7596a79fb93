"""aider, run in a folder with one file, one message at a time."""

import json
import re
from pathlib import Path

import pytest
from program import run_program

AIDER = Path(__file__).parents[2] / ".venv-aider/bin/aider"


def aider_version():
    return re.search(r"[\d.]+", run_program([str(AIDER), "--version"], folder=Path("/")).stdout)[0]


CLIENT = (10, "aider", aider_version)


@pytest.fixture
def aider(url, key, tmp_path):
    (tmp_path / "hello.py").write_text('print("hello")\n')
    limits = [{"name": "openai/mongars", "extra_params": {"max_tokens": 64, "temperature": 0}}]
    (tmp_path / ".aider.model.settings.yml").write_text(json.dumps(limits))
    caches = tmp_path / ".aider/caches"  # aider would download this file otherwise
    caches.mkdir(parents=True)
    (caches / "model_prices_and_context_window.json").write_text('{"any": {}}')

    def run(message, *options, key=key):
        found = run_program(
            [
                *(str(AIDER), "--model", "openai/mongars", "--message", message, "--no-git"),
                *("--yes-always", "--no-check-update", "--no-show-model-warnings", "--no-pretty"),
                *("--analytics-disable", "--map-tokens", "0", "--timeout", "60", *options),
            ],
            folder=tmp_path,
            HOME=str(tmp_path),
            OPENAI_API_BASE=url,
            OPENAI_API_KEY=key,
        )
        return found.stdout + found.stderr

    return run


def test_question(aider):
    said = aider("Say hello.", "--chat-mode", "ask")
    assert re.search(r"Tokens: .* sent, .* received", said), said
    assert "Error" not in said


def test_question_without_streaming(aider):
    said = aider("Say hello.", "--chat-mode", "ask", "--no-stream")
    assert re.search(r"Tokens: .* sent, .* received", said), said


def test_edit_is_asked_for(aider):
    said = aider("Say good morning instead.", "hello.py")
    # The model is too small to edit a file: aider may report that it reached its token limit.
    assert re.search(r"Tokens: .* sent, .* received|Output tokens: ~\d+", said), said
    assert "litellm." not in said


def test_context_exceeded(aider, too_long):
    said = aider(too_long, "--chat-mode", "ask")
    assert "ContextWindowExceededError" in said or "context window" in said, said


def test_wrong_key(aider):
    said = aider("Say hello.", "--chat-mode", "ask", key="nonsense")
    assert "AuthenticationError" in said, said
