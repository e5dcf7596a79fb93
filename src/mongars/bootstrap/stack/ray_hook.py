"""Run by `ray start` (`RAY_START_HOOK`) just before it starts anything."""

from __future__ import annotations

from typing import Protocol


class RayParameters(Protocol):
    """The one parameter changed here."""

    ray_client_server_port: int | None


def without_client_server(parameters: RayParameters, _is_head: bool) -> None:  # noqa: FBT001
    """Leave Ray's client server out.

    Nothing here speaks its protocol; it would cost a Python process and a fixed port on which
    whoever connects may run code.
    """
    parameters.ray_client_server_port = None
