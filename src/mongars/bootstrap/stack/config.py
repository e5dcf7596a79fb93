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
    """A command that the local stack runs as a child process, with the probe that returns True once it is ready.

    The start fails if `ready` has not returned True within `ready_within` seconds.
    """

    argv: tuple[str, ...]
    ready: Probe = at_once
    ready_within: float = 60.0
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables that only this process gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """Folders, addresses, ports and number of replicas of the local stack, the processes that `mongars up` runs.

    `host` and `port` are the API's; the ports of Ray are on loopback. `use_ray` False: no Ray is started. `python` is
    the path of the interpreter; `environment` are the variables of every child process; `haproxy`: Serve uses HAProxy
    as its HTTP proxy.
    """

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
        """The folder that contains one log file for each child process."""
        return self.home / "logs"

    def ports(self) -> list[PortUse]:
        """Every TCP port that the stack's processes will listen on, with the name of the setting that changes it."""
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
    """The steps and services of the local stack, each given by the caller.

    `provision` downloads the models and `migrate` prepares the database, both blocking; `deploy` is a command that
    deploys the Serve application and ends; `api` and `worker` (None: there is none) run until the stack is stopped.
    """

    provision: Work
    migrate: Work
    deploy: Service
    api: Service
    worker: Service | None = None
    answering: Probe = at_once
    """Returns whether the API can answer requests with the configured provider now."""
