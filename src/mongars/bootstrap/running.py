"""The addresses of the stack that runs on a home folder, for commands in other terminals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psutil

from mongars.settings import passed_on

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.settings import Settings


def announce(settings: Settings, *, url: str, dashboard: str) -> None:
    """Record in the home folder that this process runs the local stack, with the URLs of its API and Ray dashboard.

    Other commands on this machine read that file. Only the process that holds the home folder's lock may call it.
    """
    path = _path(settings)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    announcement = {"pid": psutil.Process().pid, "url": url, "dashboard": dashboard}
    path.write_text(json.dumps(announcement), encoding="utf-8")


def withdraw(settings: Settings) -> None:
    """Remove the file in the home folder with the URLs of the running local stack, if this process wrote it."""
    if _announced(settings, by=psutil.Process().pid):
        _path(settings).unlink(missing_ok=True)


def running_url(settings: Settings) -> str:
    """The base URL of the API that a running `mongars up` of this home folder announced.

    If none runs: the URL made from `MONGARS_HOST` and `MONGARS_PORT`.
    """
    return _announced(settings).get("url") or settings.api_url


def running_dashboard(settings: Settings) -> str:
    """The URL of the Ray dashboard that a running `mongars up` of this home folder announced.

    If none runs: the loopback address with the port `RAY_DASHBOARD_PORT`.
    """
    local = f"http://127.0.0.1:{settings.environment.ray_dashboard_port}"
    return _announced(settings).get("dashboard") or local


def is_stack_running(settings: Settings) -> bool:
    """Whether a local stack (`mongars up`) runs with this home folder.

    That is so if the process that recorded its URLs there, by `announce`, still exists.
    """
    return bool(_announced(settings))


def is_own_api(settings: Settings, url: str) -> bool:
    """Whether `url` is the API that runs from this home folder, so that the API key in the folder may be sent there.

    True if the running `mongars up` announced that URL, or if it is a loopback URL with the port that `MONGARS_PORT` in
    the process environment sets (default 8080). A `.env` file is not considered: another user may have written it.
    """
    return _is_own(url, _announced(settings).get("url"), passed_on(["MONGARS_PORT"]), default=8080)


def is_own_dashboard(settings: Settings, url: str) -> bool:
    """Whether `url` is the Ray dashboard of this home folder's stack: the token in the folder may be sent there.

    True if the running `mongars up` announced that URL, or if it is a loopback URL with the port that
    `RAY_DASHBOARD_PORT` in the process environment sets (default 8265).
    """
    recorded = _announced(settings).get("dashboard")
    return _is_own(url, recorded, passed_on(["RAY_DASHBOARD_PORT"]), default=8265)


def _is_own(url: str, recorded: str | None, port: dict[str, str], *, default: int) -> bool:
    local = next(iter(port.values()), "") or str(default)
    own = {recorded, *(f"http://{name}:{local}" for name in ("127.0.0.1", "localhost", "[::1]"))}
    return url.rstrip("/") in own


def _announced(settings: Settings, *, by: int | None = None) -> dict[str, str]:
    """The recorded URLs of the running local stack: of its API (`url`) and Ray dashboard (`dashboard`).

    Empty if the home folder has none, or if the process that wrote them has ended. `by`: the id of the only process
    whose URLs are returned; None: any process.
    """
    try:
        found: dict[str, str] = json.loads(_path(settings).read_text(encoding="utf-8"))
        pid = int(found.pop("pid"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    return found if psutil.pid_exists(pid) and by in {None, pid} else {}


def _path(settings: Settings) -> Path:
    return settings.home / "run" / "stack.json"
