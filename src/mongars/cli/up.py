"""`mongars up`: runs the local stack (Ray, database, API, worker) on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mongars.bootstrap.first_start import CLI_KEY
from mongars.bootstrap.local import LocalPlan, UpOptions, local_plan
from mongars.bootstrap.running import announce, withdraw
from mongars.bootstrap.secrets import RAY_TOKEN, secret_file
from mongars.bootstrap.stack.run import run_stack
from mongars.bootstrap.stack.stack import LocalStack
from mongars.cli.exit_codes import exit_on_error
from mongars.cli.screen import StackScreen, Summary
from mongars.cli.terminal import console as make_console
from mongars.core.clock import SystemClock
from mongars.core.urls import local_url
from mongars.settings import load_settings

if TYPE_CHECKING:
    from rich.console import Console


def up(
    *,
    host: Annotated[str | None, typer.Option(help="Address of the API; MONGARS_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the API; MONGARS_PORT.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Serve replicas; MONGARS_REPLICAS.")
    ] = None,
    no_ray: Annotated[
        bool, typer.Option("--no-ray", help="Without a Ray cluster: the embedded engine answers.")
    ] = False,
) -> None:
    """Start all components of monGARS on this machine; Ctrl-C stops them.

    No Ray cluster is started if RAY_SERVE_URL names one, or USE_RAY_SERVE is false. Exit status 1 if the start fails,
    or if a process could not be stopped.
    """
    with exit_on_error():
        options = UpOptions(host=host, port=port, replicas=replicas, use_ray=not no_ray)
        settings = load_settings()
        console = make_console()
        for warning in settings.warnings:
            console.print(f"! {warning}", style="yellow", highlight=False)
        clean = asyncio.run(_run(local_plan(settings, options), console))
        sys.exit(0 if clean else 1)


async def _run(plan: LocalPlan, console: Console) -> bool:
    """Start the local stack (Ray, API, worker), print its progress to `console`, and run it until a signal stops it.

    Returns True if all its processes have ended, False if some could not be stopped.
    """
    clock = SystemClock()
    began = clock.monotonic()
    with StackScreen(console) as screen:
        stack = LocalStack(plan.config, plan.parts(), clock=clock, listener=screen)

        def show() -> None:
            announce(plan.settings, url=_url(plan), dashboard=_dashboard(plan))
            screen.ready(_summary(plan, seconds=clock.monotonic() - began))

        try:
            report = await run_stack(stack, on_ready=show)
        finally:
            withdraw(plan.settings)
        return not report.alive


def _summary(plan: LocalPlan, *, seconds: float) -> Summary:
    config, settings = plan.config, plan.settings
    url = _url(plan)
    dashboard = None
    if config.use_ray:
        dashboard = f"{_dashboard(plan)}  (token: {secret_file(settings.home, RAY_TOKEN)})"
    inference = settings.inference()
    ray = config.use_ray or (inference.ray_active and plan.use_given_ray)
    local = "embedded" if inference.ollama_host is None else "ollama"
    first = plan.first_run
    return Summary(
        api_url=f"{url}/v1",
        provider="ray_serve" if ray else local,
        model=settings.provisioning().models["general"].name,
        adapter="baseline",
        logs=config.logs,
        key_hint=f"shown at the first start; this machine's own: {secret_file(settings.home, CLI_KEY)}",
        first_run=None if first is None else (first.api_key, first.password),
        dashboard=dashboard,
        chat=f"{_command()} chat",
        seconds=seconds,
    )


def _url(plan: LocalPlan) -> str:
    return local_url(plan.config.host, plan.config.port)


def _dashboard(plan: LocalPlan) -> str:
    return f"http://127.0.0.1:{plan.config.ray_dashboard_port}"


def _command() -> str:
    """The shell command that starts this program, such as `mongars` or `.venv/bin/mongars`, from the current folder."""
    here = Path(sys.argv[0])
    found = shutil.which("mongars")
    if found is not None and Path(found).resolve() == here.resolve():
        return "mongars"
    if here.name != "mongars":
        return f"{sys.executable} -m mongars"
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)
