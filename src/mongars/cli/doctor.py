"""`mongars doctor`: finds misconfiguration and prints how to correct it."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mongars.bootstrap.checks import (
    database_check,
    engine_check,
    model_check,
    ray_check,
    registry_check,
)
from mongars.bootstrap.connection_limits import descriptor_advice, raise_descriptor_limit
from mongars.bootstrap.model import no_fallback
from mongars.bootstrap.running import running_url
from mongars.cli.api_client import ApiClient
from mongars.cli.exit_codes import exit_on_error
from mongars.cli.terminal import console
from mongars.core.errors import MongarsError
from mongars.core.optional import require
from mongars.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.settings import Settings

MARKS = {"ok": "[green]ok  [/green]", "warn": "[yellow]warn[/yellow]", "fail": "[red]fail[/red]"}
MINIMUM_FREE = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check of `mongars doctor`. `what` is the check's name, such as `database`.

    `verdict`: `ok`, `warn` (monGARS still works) or `fail`. `detail` says what was found or, unless it is `ok`, what is
    wrong and how to correct it.
    """

    what: str
    verdict: Literal["ok", "warn", "fail"]
    detail: str


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check the configuration and the environment of this installation.

    Exit status 1 if a check fails.
    """
    with exit_on_error():
        findings = examine(load_settings())
        if as_json:
            print(json.dumps([asdict(finding) for finding in findings], indent=2))
        else:
            screen = console()
            for finding in findings:
                mark = MARKS[finding.verdict]
                screen.print(f"{mark}  {finding.what:<12}", end="")
                screen.print(finding.detail, markup=False)
        raise typer.Exit(1 if any(finding.verdict == "fail" for finding in findings) else 0)


def examine(settings: Settings) -> list[Finding]:
    """Run all checks of `mongars doctor` and return their results, in order.

    They change nothing but this process's limit of open files, which they raise.
    """
    findings = [
        Finding(what="settings", verdict="warn", detail=warning) for warning in settings.warnings
    ]
    if not findings:
        findings.append(Finding(what="settings", verdict="ok", detail="no unknown variables"))
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("packages", _packages),
        ("home", _home),
        ("disk", _disk),
        ("open files", _descriptors),
        ("engine", engine_check),
        ("models", model_check),
        ("fallback", _fallback),
        ("ray", ray_check),
        ("registry", registry_check),
        ("database", database_check),
        ("api", _api),
    ]
    for what, check in checks:
        try:
            findings.append(Finding(what=what, verdict="ok", detail=check(settings)))
        except _Warning as error:
            findings.append(Finding(what=what, verdict="warn", detail=str(error)))
        except MongarsError as error:
            findings.append(Finding(what=what, verdict="fail", detail=str(error)))
    return findings


class _Warning(MongarsError):
    """Raised by a check for a fault with which monGARS still works; `examine` reports it as `warn`, not `fail`."""


def _packages(_: Settings) -> str:
    for module, extra in (("ray", "serve"), ("xllamacpp", "engine"), ("fastapi", "api")):
        require(module, extra=extra)
    return f"Python {sys.version.split()[0]}, Ray, llama.cpp and the API are installed"


def _home(settings: Settings) -> str:
    if not settings.home.exists():
        detail = f"{settings.home} does not exist yet; `mongars up` makes it"
        raise _Warning(detail)
    mode = stat.S_IMODE(settings.home.stat().st_mode)
    if mode & 0o077:
        detail = f"{settings.home} can be read by others; mend with: chmod 700 {settings.home}"
        raise _Warning(detail)
    return str(settings.home)


def _disk(settings: Settings) -> str:
    folder = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < MINIMUM_FREE:
        detail = f"only {free // 1_000_000} MB free at {folder}"
        raise _Warning(detail)
    return f"{free // 1_000_000_000} GB free"


def _descriptors(settings: Settings) -> str:
    available = raise_descriptor_limit()
    advice = descriptor_advice(settings, available)
    if advice is not None:
        raise _Warning(advice)
    return f"{available}, enough for {settings.environment.max_connections} connections"


def _fallback(settings: Settings) -> str:
    if missing := no_fallback(settings):
        raise _Warning(missing)
    host = settings.inference().ollama_host
    return "the embedded engine" if host is None else f"Ollama at {host}, then the embedded engine"


def _api(settings: Settings) -> str:
    url = running_url(settings)
    try:
        _, body = asyncio.run(ApiClient(url, key=None).get("/readyz"))
    except MongarsError as error:
        detail = f"not running at {url}; start it with `mongars up`"
        raise _Warning(detail) from error
    if body.get("status") != "ready":
        parts = body.get("parts", {})
        down = [f"{n}: {p['state']} {p['detail']}" for n, p in parts.items() if p["state"] != "up"]
        raise _Warning(f"{body.get('status')} at {url}; " + "; ".join(down))
    return f"ready at {url}"
