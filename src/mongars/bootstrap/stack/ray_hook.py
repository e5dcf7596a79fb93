"""A hook that `ray start` calls (`RAY_START_HOOK`) before it starts the head node of a local cluster."""

from __future__ import annotations

from typing import Protocol

from mongars.serving.ray_start import without_usage_reports


class RayParameters(Protocol):
    """The attributes of Ray's start parameters (`ray start`) that `local_head` changes."""

    ray_client_server_port: int | None


def local_head(parameters: RayParameters, is_head: bool) -> None:  # noqa: FBT001
    """Make Ray start without its client server (the one for `ray://` addresses) and without usage reports.

    Nothing here uses the client server; it would take a Python process and a fixed port at which any client can execute
    code. Ray calls this function and gives the parameters of the start; `is_head`: a head node starts.
    """
    parameters.ray_client_server_port = None
    without_usage_reports(parameters, is_head)
