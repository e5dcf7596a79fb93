"""The configuration of the local stack: its processes, folders and ports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mongars.bootstrap.stack.child_process import Probe, at_once
from mongars.bootstrap.stack.ports import PortUse
from mongars.bootstrap.stack.ray_head import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mongars.bootstrap.stack.stage import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A child process that the stack starts: its command line, and the probe that returns True once it is ready.

    The start fails if `ready` has not returned True within `ready_within` seconds.
    """

    argv: tuple[str, ...]
    ready: Probe = at_once
    ready_within: float = 60.0
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables that only this process gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """The folders, ports and sizes of the stack. `environment` is passed to every child process."""

    home: Path
    host: str
    port: int
    ray_http_port: int
    ray_port: int
    ray_dashboard_port: int
    replicas: int
    """The largest number of replicas."""
    use_ray: bool
    python: str
    environment: Mapping[str, str]
    haproxy: bool = False
    ray_token: str | None = field(default=None, repr=False)
    """The token of Ray's dashboard; `environment` must contain the matching `RAY_AUTH_` variables."""

    @property
    def logs(self) -> Path:
        """The folder that contains a log file for each child process."""
        return self.home / "logs"

    def ports(self) -> list[PortUse]:
        """Every TCP port that the stack listens on, with the name of the setting that changes it."""
        uses = [("the API", self.host, self.port, "--port or MONGARS_PORT")]
        if self.use_ray:
            uses += [
                ("the Serve application", LOOPBACK, self.ray_http_port, "RAY_HTTP_PORT"),
                ("Ray's head", LOOPBACK, self.ray_port, "RAY_PORT"),
                ("Ray's dashboard", LOOPBACK, self.ray_dashboard_port, "RAY_DASHBOARD_PORT"),
            ]
        return [
            PortUse(what=what, host=host, port=port, setting=setting)
            for what, host, port, setting in uses
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackParts:
    """What the stack runs: two functions (`provision`, `migrate`), the deployment, and the services."""

    provision: Work
    migrate: Work
    deploy: Service
    api: Service
    worker: Service | None = None
    answering: Probe = at_once
    """Returns whether the API can answer requests with the configured provider now."""
