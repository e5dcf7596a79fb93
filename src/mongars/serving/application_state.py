"""The state of the monGARS application on a Ray cluster, read from Serve's REST interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mongars.serving.config import APPLICATION

SCALING = frozenset({"UPSCALING", "DOWNSCALING"})
NOT_LISTENING = frozenset({"STARTING", "UNHEALTHY"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """The state of one replica, as Ray Serve's controller reports it.

    `state` is Serve's word, such as `RUNNING`; `node` the IP address of its node, empty if unknown; `pid` None if
    unknown.
    """

    name: str
    state: str
    node: str
    pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentState:
    """The state of one Ray Serve deployment of the application: its status, and its replicas.

    `status` is Serve's word, such as `HEALTHY`, with a `message`. `target` is the number of replicas that Serve aims at
    now.
    """

    name: str
    status: str
    message: str
    target: int
    replicas: tuple[ReplicaState, ...]

    @property
    def running(self) -> int:
        """The number of this deployment's replicas in the state `RUNNING`."""
        return sum(replica.state == "RUNNING" for replica in self.replicas)

    @property
    def answers(self) -> bool:
        """Whether this deployment can serve: it is healthy, or is scaling while at least one replica runs."""
        return self.status == "HEALTHY" or (self.status in SCALING and self.running > 0)

    @property
    def complete(self) -> bool:
        """Whether this deployment is healthy and at least its target number of replicas is running."""
        return self.status == "HEALTHY" and self.running >= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationState:
    """The state of the monGARS application (Ray Serve's `mongars`) on a cluster.

    `status` is Serve's word, such as `RUNNING`, with a `message`; `NOT_STARTED` if the application is not deployed.
    `proxies`: the status of Serve's HTTP proxy on each node.
    """

    status: str
    message: str
    deployments: tuple[DeploymentState, ...] = ()
    proxies: tuple[str, ...] = ()
    """The status of Serve's HTTP proxy on each node."""

    @property
    def healthy(self) -> bool:
        """Whether the application runs, all its deployments can serve, and Serve's HTTP proxy listens on every node."""
        answers = all(part.answers for part in self.deployments)
        listening = NOT_LISTENING.isdisjoint(self.proxies)
        return self.status == "RUNNING" and answers and listening

    @property
    def settled(self) -> bool:
        """Whether the application is healthy and each deployment has its target number of running replicas."""
        return self.healthy and all(part.complete for part in self.deployments)

    @property
    def target(self) -> int:
        """The number of replicas that Serve aims at now, over all deployments."""
        return sum(part.target for part in self.deployments)

    def describe(self) -> str:
        """This state as one line of text, such as `application RUNNING, LLMDeployment HEALTHY: 1/1 running`."""
        parts = ", ".join(
            f"{p.name} {p.status}: {p.running}/{p.target} running" for p in self.deployments
        )
        waiting = sum(proxy in NOT_LISTENING for proxy in self.proxies)
        missing = f", {waiting} of {len(self.proxies)} proxies do not listen" if waiting else ""
        return f"application {self.status}" + (f", {parts}" if parts else "") + missing


def application_state(details: dict[str, Any]) -> ApplicationState:
    """Extract the state of the monGARS application from `details`, whose format is Serve's.

    `details` is the response body of `GET /api/serve/applications/` of Ray's dashboard, as `get_serve_details` of Ray's
    client returns it. The application may be missing in it; then the status is `NOT_STARTED`.
    """
    found = details.get("applications", {}).get(APPLICATION)
    if found is None:
        return ApplicationState(status="NOT_STARTED", message="")
    return ApplicationState(
        status=found["status"],
        message=found.get("message") or "",
        deployments=tuple(_deployment(part) for part in found["deployments"].values()),
        proxies=tuple(str(proxy["status"]) for proxy in details.get("proxies", {}).values()),
    )


def replaced(details: dict[str, Any], sent: dict[str, Any]) -> bool:
    """Whether another definition of the monGARS application than `sent` is deployed on the cluster.

    `details` is the response body of `GET /api/serve/applications/` of Ray's dashboard; `sent` the definition of the
    application in the format of Ray Serve's `ServeApplicationSchema`, as a dictionary. Compares the number of
    replicas, the user configuration and the arguments. False if none is deployed.
    """
    found = details.get("applications", {}).get(APPLICATION, {}).get("deployed_app_config")
    if not found:
        return False
    ours, theirs = sent["deployments"][0], (found.get("deployments") or [{}])[0]
    same = all(theirs.get(key) == ours.get(key) for key in ("num_replicas", "user_config"))
    return not (same and found.get("args") == sent["args"])


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


def reason_of(state: ApplicationState) -> str:
    """The reason why a deployment failed: Serve's messages, each reduced to its last line, joined by spaces.

    Empty if Serve reports none.
    """
    messages = [part.message for part in state.deployments] or [state.message]
    return " ".join(last_line(message) for message in messages if message.strip())


def last_line(message: str) -> str:
    """The last line of Serve's message or traceback; for a port in use, with the advice to set RAY_HTTP_PORT.

    `message` must not be blank.
    """
    line = message.replace("\\n", "\n").strip().splitlines()[-1]
    if "Failed to bind" in line:
        line += " Choose another port with RAY_HTTP_PORT."
    return line
