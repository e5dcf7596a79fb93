"""Where the running stack of a home is reached, for the commands in other terminals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psutil

from mongars.settings import passed_on

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.settings import Settings


def announce(settings: Settings, *, url: str, dashboard: str) -> None:
    """Publish the addresses of this process's stack. Only the process that holds the home's lock may call it."""
    path = _path(settings)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    announcement = {"pid": psutil.Process().pid, "url": url, "dashboard": dashboard}
    path.write_text(json.dumps(announcement), encoding="utf-8")


def withdraw(settings: Settings) -> None:
    """Take back what this process announced."""
    if _announced(settings, by=psutil.Process().pid):
        _path(settings).unlink(missing_ok=True)


def running_url(settings: Settings) -> str:
    """The API of the stack that runs on this home, else the address in the settings."""
    return _announced(settings).get("url") or settings.api_url


def running_dashboard(settings: Settings) -> str:
    """The same for the dashboard of its Ray cluster."""
    local = f"http://127.0.0.1:{settings.environment.ray_dashboard_port}"
    return _announced(settings).get("dashboard") or local


def is_stack_running(settings: Settings) -> bool:
    """Whether a living process announced a stack on this home."""
    return bool(_announced(settings))


def is_own_api(settings: Settings, url: str) -> bool:
    """Whether that is where the stack of this home listens.

    It is if the running stack wrote it down, or on loopback at the port that this process's own
    environment names: a `.env` in the current folder may be another user's.
    """
    return _is_own(url, _announced(settings).get("url"), passed_on(["MONGARS_PORT"]), default=8080)


def is_own_dashboard(settings: Settings, url: str) -> bool:
    """The same for the dashboard of its Ray cluster."""
    recorded = _announced(settings).get("dashboard")
    return _is_own(url, recorded, passed_on(["RAY_DASHBOARD_PORT"]), default=8265)


def _is_own(url: str, recorded: str | None, port: dict[str, str], *, default: int) -> bool:
    local = next(iter(port.values()), "") or str(default)
    own = {recorded, *(f"http://{name}:{local}" for name in ("127.0.0.1", "localhost", "[::1]"))}
    return url.rstrip("/") in own


def _announced(settings: Settings, *, by: int | None = None) -> dict[str, str]:
    """What a running process published; with `by`, only what that process published."""
    try:
        found: dict[str, str] = json.loads(_path(settings).read_text(encoding="utf-8"))
        pid = int(found.pop("pid"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    return found if psutil.pid_exists(pid) and by in {None, pid} else {}


def _path(settings: Settings) -> Path:
    return settings.home / "run" / "stack.json"
