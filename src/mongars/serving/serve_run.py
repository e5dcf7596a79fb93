"""Prepare `serve run`: start Serve with this configuration when `serve run` imports the application.

`serve run` (Ray 2.60) imports the application, connects to Ray, starts Serve on port 8000 and runs the
application; when that fails, or on Ctrl-C, it removes every application of the cluster. So the import is the only
moment to start Serve on the configured port, and to refuse if that would remove the deployed application.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray import serve

from mongars.serving.config import APPLICATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.serving.config import ServingConfig

NAMESPACE = "serve"


def prepare_serve_run(config: ServingConfig, argv: Sequence[str]) -> None:
    """Start Serve at `config.host` and `config.port` if `argv` is that of `serve run`; otherwise do nothing.

    `argv` is the whole command line, the program first. For that it connects to the Ray cluster at `--address`, or the
    local one, and disconnects again; without any, it starts one that ends with this process.

    Raises `SystemExit` with the reason if the application `mongars` is deployed on the cluster, unless all of
    `--non-blocking`, `--route-prefix` and `--name` are given: otherwise both would serve all paths, and the end of
    `serve run` would remove both. Raises `ConnectionError` if there is no cluster at a given `--address`.
    """
    if Path(argv[0]).name != "serve" or list(argv[1:2]) != ["run"]:
        return
    joined = _connect(_option(argv, "--address", "-a"))
    if APPLICATION in serve.status().applications and not _keeps_others(argv):
        ray.shutdown()
        message = (
            f"error: The application {APPLICATION!r} is deployed on this cluster; `serve run` would remove it."
            " Remove it first (python -m modules.ray_service --shutdown), or run beside it with:"
            " --non-blocking --route-prefix /own --name own"
        )
        raise SystemExit(message)
    serve.start(http_options={"host": config.host, "port": config.port})
    if joined:  # `serve run` connects by itself, with the options it was given
        ray.shutdown()


def _connect(address: str | None) -> bool:
    """Connect to the Ray cluster at `address`; True if it was running already.

    None: the local cluster; if none was running, a new one is started that ends with this process, and the result is
    False. Raises `ConnectionError` if there is no cluster at a given address.
    """
    try:
        ray.init(address=address or "auto", namespace=NAMESPACE, logging_level="ERROR")
    except ConnectionError:
        if address is not None:
            raise
        ray.init(namespace=NAMESPACE)
        return False
    return True


def _keeps_others(argv: Sequence[str]) -> bool:
    prefix = _option(argv, "--route-prefix")
    return (
        "--non-blocking" in argv
        and prefix not in {None, "/"}
        and _option(argv, "--name") is not None
    )


def _option(argv: Sequence[str], *names: str) -> str | None:
    """The value of the command line option with one of `names`, given as `--name value` or `--name=value`.

    The first occurrence counts. None if it is absent or has no value.
    """
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else following
    return None
