"""`mongars api`: the API under uvicorn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mongars.bootstrap.api_process import serve_api
from mongars.bootstrap.first_start import prepare_database

if TYPE_CHECKING:
    from mongars.api.first_run import FirstRun
    from mongars.settings import Settings


def run_api(settings: Settings, *, host: str | None, port: int | None) -> None:
    """Serve until SIGTERM or SIGINT. Raises `ConfigurationError` or `StorageUnavailable`."""
    first = prepare_database(settings, local_key=False)
    if first is not None:
        show_first_run(first)
    serve_api(settings, host=host, port=port)


def show_first_run(first: FirstRun) -> None:
    """Print the credentials made on the first run; they are stored nowhere.

    A key the operator chose is not among them: this output ends up in logs.
    """
    print(
        "First run. These credentials are shown once; keep them:\n"
        f"  user      {first.username}\n"
        f"  password  {first.password}\n"
        f"  API key   {first.api_key}",
        file=sys.stderr,
        flush=True,
    )
