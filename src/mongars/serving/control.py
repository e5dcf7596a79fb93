"""Deploying, watching and removing the Serve application through the cluster's REST interface.

The same interface `serve deploy` and `serve status` use: declarative, and idempotent for an
unchanged definition. Nothing here joins the cluster, so it works from any machine that reaches
the dashboard port.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.exceptions import AuthenticationError

from mongars.core.clock import pause
from mongars.core.errors import (
    DeadlineExceeded,
    EndpointUnreachable,
    InferenceFailed,
    InvalidAnswer,
    NotAuthenticated,
)
from mongars.serving.config import APPLICATION
from mongars.serving.definition import deploy_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.serving.config import ServingConfig

POLL_SECONDS = 0.1
SETTLE_SECONDS = 1.0
GAVE_UP = {"DEPLOY_FAILED", "UNHEALTHY"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """One replica as the controller sees it."""

    name: str
    state: str
    node: str
    pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentState:
    """One deployment: Serve's word for it, and its replicas."""

    name: str
    status: str
    message: str
    target: int
    replicas: tuple[ReplicaState, ...]

    @property
    def complete(self) -> bool:
        """Healthy, with as many running replicas as it should have."""
        running = [replica for replica in self.replicas if replica.state == "RUNNING"]
        return self.status == "HEALTHY" and len(running) >= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationState:
    """Our application on a cluster; `status` is NOT_STARTED where it is not deployed."""

    status: str
    message: str
    deployments: tuple[DeploymentState, ...] = ()

    @property
    def healthy(self) -> bool:
        """The application runs, every deployment of it is healthy and has its replicas."""
        return self.status == "RUNNING" and all(part.complete for part in self.deployments)

    @property
    def target(self) -> int:
        """How many replicas there should be, over all deployments."""
        return sum(part.target for part in self.deployments)

    def describe(self) -> str:
        """One line for a progress display."""
        parts = ", ".join(
            f"{p.name} {p.status}: {len(p.replicas)}/{p.target}" for p in self.deployments
        )
        return f"application {self.status}" + (f", {parts}" if parts else "")


class ServeControl:
    """Talks to one cluster's dashboard, such as `http://127.0.0.1:8265`."""

    def __init__(self, address: str, *, token: str | None = None) -> None:
        self._address = address
        self._headers = None if token is None else {"Authorization": f"Bearer {token}"}

    def deploy(
        self,
        config: ServingConfig,
        *,
        timeout: float,
        on_progress: Callable[[ApplicationState], None],
    ) -> ApplicationState:
        """Deploy and wait until healthy; returns the final state.

        Raises:
            EndpointUnreachable: no dashboard answers at the address.
            InferenceFailed: the deployment failed; the message is Serve's own.
            DeadlineExceeded: not healthy within `timeout` seconds.
        """
        schema = deploy_schema(config)
        # What is not named in a declarative deployment is removed: other teams' stay named.
        schema["applications"] += self._others()
        self._call(lambda client: client.deploy_applications(schema))
        sent = time.monotonic()
        until = sent + timeout
        wanted = config.replicas if config.autoscaling is None else None
        changing = False
        while True:
            state = self.status()
            on_progress(state)
            # The controller takes a moment to act on a definition; until then it tells of the
            # one before, which may be as healthy as can be.
            done = state.healthy and (wanted is None or state.target == wanted)
            changing = changing or not done
            if done and (changing or time.monotonic() - sent > SETTLE_SECONDS):
                return state
            if state.status in GAVE_UP:
                detail = f"The deployment is {state.status}: {_reason(state)}"
                raise InferenceFailed(detail)
            if time.monotonic() >= until:
                break
            pause(POLL_SECONDS)
        detail = f"Not healthy after {timeout:g} s: {state.describe()}. {_reason(state)}"
        raise DeadlineExceeded(detail)

    def status(self) -> ApplicationState:
        """What the cluster says of our application. Raises `EndpointUnreachable`."""
        details = self._call(lambda client: client.get_serve_details())
        found = details.get("applications", {}).get(APPLICATION)
        if found is None:
            return ApplicationState(status="NOT_STARTED", message="")
        return ApplicationState(
            status=found["status"],
            message=found.get("message") or "",
            deployments=tuple(_deployment(part) for part in found["deployments"].values()),
        )

    def shutdown(self) -> None:
        """Remove our application; others on the cluster stay. Raises `EndpointUnreachable`."""
        others = self._others()
        if others:
            self._call(lambda client: client.deploy_applications({"applications": others}))
        else:
            self._call(lambda client: client.delete_applications())

    def _others(self) -> list[dict[str, Any]]:
        """The declared applications of the cluster that are not ours."""
        details = self._call(lambda client: client.get_serve_details())
        found = details.get("applications", {})
        return [
            application["deployed_app_config"]
            for name, application in found.items()
            if name != APPLICATION and application.get("deployed_app_config")
        ]

    def _call(self, action: Callable[[ServeSubmissionClient], Any]) -> Any:  # noqa: ANN401
        try:
            return action(ServeSubmissionClient(self._address, headers=self._headers))
        except OSError as exc:  # what `requests`, inside, raises is one too
            detail = (
                f"No Ray dashboard answers at {self._address}. Start Ray (`mongars up`, or"
                " `ray start --head`), or name the right one with --address."
            )
            raise EndpointUnreachable(detail) from exc
        except AuthenticationError as exc:
            detail = (
                f"The Ray cluster at {self._address} asks for a token. Set RAY_AUTH_TOKEN or"
                " RAY_AUTH_TOKEN_PATH."
            )
            raise NotAuthenticated(detail) from exc
        except (RuntimeError, ValueError) as exc:
            detail = f"The Ray dashboard at {self._address} refused: {_last_line(str(exc))}"
            raise InvalidAnswer(detail) from exc


def _deployment(part: dict[str, Any]) -> DeploymentState:
    replicas = tuple(
        ReplicaState(
            name=replica["replica_id"],
            state=replica["state"],
            node=replica.get("node_ip") or "",
            pid=replica.get("pid"),
        )
        for replica in part.get("replicas", ())
    )
    return DeploymentState(
        name=part["name"],
        status=part["status"],
        message=part.get("message") or "",
        target=part.get("target_num_replicas") or 0,
        replicas=replicas,
    )


def _reason(state: ApplicationState) -> str:
    """What Serve says went wrong; of a traceback, the line that names the error."""
    messages = [part.message for part in state.deployments] or [state.message]
    return " ".join(_last_line(message) for message in messages if message.strip())


def _last_line(message: str) -> str:
    """Of a traceback, the line that names the error."""
    line = message.replace("\\n", "\n").strip().splitlines()[-1]
    if "Failed to bind" in line:
        line += " Choose another port with RAY_HTTP_PORT."
    return line
