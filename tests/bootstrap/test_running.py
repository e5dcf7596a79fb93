"""How commands in other terminals find the running stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.bootstrap.running import announce, running_dashboard, running_url, withdraw
from mongars.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

HERE = {"url": "http://127.0.0.1:9999", "dashboard": "http://127.0.0.1:9998"}


def test_the_running_stack_is_found_wherever_it_listens(tmp_path: Path) -> None:
    """Commands use the address that the running stack announced, and the configured one after it stopped."""
    settings = load_settings({"MONGARS_HOME": str(tmp_path), "MONGARS_PORT": "8081"})
    assert running_url(settings) == "http://127.0.0.1:8081"
    announce(settings, **HERE)
    assert running_url(settings) == HERE["url"]
    assert running_dashboard(settings) == HERE["dashboard"]
    withdraw(settings)
    assert running_url(settings) == "http://127.0.0.1:8081"


def test_what_a_dead_or_broken_announcement_says_is_ignored(tmp_path: Path) -> None:
    """An announcement of a dead process or in a damaged file is ignored, and the file is not deleted."""
    settings = load_settings({"MONGARS_HOME": str(tmp_path)})
    path = tmp_path / "run" / "stack.json"
    path.parent.mkdir()
    for text in ('{"pid": 4194999, "url": "http://127.0.0.1:1"}', "[]", "{", '{"pid": "x"}'):
        path.write_text(text)
        assert running_url(settings) == "http://127.0.0.1:8080"
    withdraw(settings)
    assert path.exists(), "somebody else's word is not ours to remove"
