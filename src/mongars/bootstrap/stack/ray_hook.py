"""Run by `ray start` (`RAY_START_HOOK`) just before it starts the head of a local cluster."""

from __future__ import annotations

from typing import Protocol

from mongars.serving.ray_start import without_usage_reports


class RayParameters(Protocol):
    """The one parameter changed here."""

    ray_client_server_port: int | None


def local_head(parameters: RayParameters, is_head: bool) -> None:  # noqa: FBT001
    """Leave out Ray's client server and its usage reports.

    Nothing here speaks the client server's protocol; it would cost a Python process and a fixed port
    on which any client may run code.
    """
    parameters.ray_client_server_port = None
    without_usage_reports(parameters, is_head)
