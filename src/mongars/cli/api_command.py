"""`mongars api`: runs one API process with uvicorn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mongars.bootstrap.api_process import serve_api
from mongars.bootstrap.first_start import prepare_database

if TYPE_CHECKING:
    from mongars.api.first_run import FirstRun
    from mongars.settings import Settings


def run_api(settings: Settings, *, host: str | None, port: int | None) -> None:
    """Prepare the database and serve the API until SIGTERM or SIGINT; on the first start, print the credentials.

    `host` and `port` replace the settings unless None. Raises `ConfigurationError` for unusable settings, and
    `StorageUnavailable` if the database cannot be reached.
    """
    first = prepare_database(settings, local_key=False)
    if first is not None:
        show_first_run(first)
    serve_api(settings, host=host, port=port)


def show_first_run(first: FirstRun) -> None:
    """Print the credentials of the new administrator on standard error; they are stored nowhere else.

    An API key that the operator chose is not printed, because this output may be logged.
    """
    print(
        "First run. These credentials are shown once; keep them:\n"
        f"  user      {first.username}\n"
        f"  password  {first.password}\n"
        f"  API key   {first.api_key}",
        file=sys.stderr,
        flush=True,
    )
