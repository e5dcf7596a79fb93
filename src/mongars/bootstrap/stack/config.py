"""What the local stack is made of and where it listens."""

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
    """A process of ours to keep running."""

    argv: tuple[str, ...]
    ready: Probe = at_once
    ready_within: float = 60.0
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables that only this process gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """Where the stack lives and where it listens. `environment` goes to every child."""

    home: Path
    host: str
    port: int
    ray_http_port: int
    ray_port: int
    ray_dashboard_port: int
    replicas: int
    """The most there can be."""
    use_ray: bool
    python: str
    environment: Mapping[str, str]
    haproxy: bool = False
    ray_token: str | None = field(default=None, repr=False)
    """How Ray authenticates its clients; `environment` must hold the matching `RAY_AUTH_` variables."""

    @property
    def logs(self) -> Path:
        """Where every child's log is."""
        return self.home / "logs"

    def ports(self) -> list[PortUse]:
        """Every port the stack needs, and the setting that changes it."""
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
    """What the stack runs: two pieces of work, the deployment, the services."""

    provision: Work
    migrate: Work
    deploy: Service
    api: Service
    worker: Service | None = None
    answering: Probe = at_once
    """Whether a request to the API now would be answered by the configured provider."""
