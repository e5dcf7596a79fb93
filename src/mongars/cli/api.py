"""`mongars api`: the API under uvicorn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import uvicorn

from mongars.bootstrap.api import api_app
from mongars.bootstrap.first_run import prepare_database

if TYPE_CHECKING:
    from mongars.api.first_run import FirstRun
    from mongars.settings import Settings

DRAIN_SECONDS = 5


def serve_api(settings: Settings, *, host: str | None, port: int | None) -> None:
    """Serve until SIGTERM or SIGINT. Raises `ConfigurationError` or `StorageUnavailable`."""
    first = prepare_database(settings)
    if first is not None:
        show_first_run(first)
    uvicorn.run(
        api_app(settings),
        host=host or settings.environment.host,
        port=port or settings.environment.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=75,
    )


def show_first_run(first: FirstRun) -> None:
    """Print the credentials made on the first run; they are stored nowhere."""
    print(
        "First run. These credentials are shown once; keep them:\n"
        f"  user      {first.username}\n"
        f"  password  {first.password}\n"
        f"  API key   {first.api_key}",
        file=sys.stderr,
        flush=True,
    )
