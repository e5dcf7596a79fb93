"""The client of a Ray dashboard that does not answer, and the states that it reports."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from mongars.core.errors import EndpointUnreachable
from mongars.serving.application_state import application_state
from mongars.serving.control import ServeControl

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def silent_dashboard() -> Iterator[str]:
    """The URL of a server that accepts connections and sends nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_dashboard_that_never_answers_is_given_up(silent_dashboard: str) -> None:
    """A command to a dashboard that never answers ends with an error after its timeout."""
    outcome: list[BaseException] = []

    def ask() -> None:
        try:
            ServeControl(silent_dashboard, http_timeout=(0.5, 0.5)).status()
        except EndpointUnreachable as error:
            outcome.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout=10)
    assert outcome


def details(*, replicas: int = 2, proxy: str = "HEALTHY", status: str = "HEALTHY") -> dict:
    running = [
        {"replica_id": f"r{n}", "state": "RUNNING", "node_ip": "10.0.0.1", "pid": n}
        for n in range(replicas)
    ]
    deployment = {
        "name": "LLMDeployment",
        "status": status,
        "message": "",
        "target_num_replicas": 2,
        "replicas": running,
    }
    application = {"status": "RUNNING", "deployments": {"LLMDeployment": deployment}}
    return {
        "applications": {"mongars": application},
        "proxies": {"a": {"status": "HEALTHY"}, "b": {"status": proxy}},
    }


def test_progress_counts_replicas_that_run() -> None:
    """The progress counts replicas that run, not those that are starting."""
    found = details(status="UPDATING")
    found["applications"]["mongars"]["deployments"]["LLMDeployment"]["replicas"][1]["state"] = (
        "STARTING"
    )
    assert "LLMDeployment UPDATING: 1/2 running" in application_state(found).describe()


@pytest.mark.parametrize(
    ("found", "healthy", "settled"),
    [
        pytest.param(details(), True, True, id="complete"),
        pytest.param(details(replicas=1), True, False, id="replica-missing"),
        pytest.param(details(status="UPDATING"), False, False, id="updating"),
        pytest.param(details(replicas=1, status="UPSCALING"), True, False, id="scaling"),
        pytest.param(details(replicas=0, status="UPSCALING"), False, False, id="from-zero"),
        pytest.param(details(proxy="STARTING"), False, False, id="proxy-not-listening"),
        pytest.param(details(proxy="DRAINING"), True, True, id="proxy-of-a-leaving-node"),
        pytest.param({"applications": {}}, False, False, id="not-deployed"),
    ],
)
def test_healthy_answers_everywhere_and_settled_has_every_replica(
    found: dict, *, healthy: bool, settled: bool
) -> None:
    """An application is healthy if it answers on every node, and settled once all replicas run."""
    state = application_state(found)
    assert state.healthy is healthy
    assert state.settled is settled
