"""The Serve configuration as a YAML file."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from installations import INSTALLATIONS
from validation import ROOT, serve_problems

from mongars.serving.config import EngineSpec, ReplicaConfig, ServingConfig
from mongars.serving.definition import deploy_schema
from mongars.serving.exports.config import ExportConfig, for_cluster, installation
from mongars.serving.exports.export import render


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_the_file_is_the_definition_and_ray_accepts_it(name: str) -> None:
    """`serve.yaml` is exactly the definition of the application, and Ray accepts it and ignores no key."""
    config = INSTALLATIONS[name]
    data = yaml.safe_load(render("serve", config)["serve.yaml"])
    assert data == deploy_schema(config.serving)
    assert serve_problems(data) == []


def test_the_committed_file_is_accepted() -> None:
    """Ray accepts the committed `serve.yaml`."""
    text = (ROOT / "deploy" / "serve" / "serve.yaml").read_text(encoding="utf-8")
    assert serve_problems(yaml.safe_load(text)) == []


MISTAKES: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "proxies nowhere Ray knows": (("proxy_location",), "Everywhere"),
    "misspelt top-level key, which Ray ignores": (("http_option",), {"port": 1}),
    "number of replicas below nothing": (
        ("applications", 0, "deployments", 0, "num_replicas"),
        -1,
    ),
    "import path without an attribute": (("applications", 0, "import_path"), "mongars"),
    "misspelt option of a deployment": (
        ("applications", 0, "deployments", 0, "max_ongoing_request"),
        8,
    ),
}


@pytest.mark.parametrize(("path", "value"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_caught(path: tuple[str | int, ...], value: Any) -> None:
    """A Serve definition with a mistake is reported."""
    wrong = copy.deepcopy(deploy_schema(ExportConfig().serving))
    at: Any = wrong
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert serve_problems(wrong) != []


def test_settings_of_one_machine_become_those_of_a_cluster() -> None:
    """The definition for a cluster has no local path, listens on all interfaces, and uses the replicas' own token."""
    engine = EngineSpec(model_path="/home/ada/model.gguf", slots=7)
    replica = ReplicaConfig(engine=engine, coding=engine, token_sha256="ab" * 32)
    cluster = for_cluster(ServingConfig(replica=replica, host="127.0.0.1"))
    text = str(deploy_schema(cluster))
    assert "/home/ada" not in text
    assert cluster.host == "0.0.0.0"  # noqa: S104 (what a pod listens on)
    assert cluster.replica.token_sha256 == "0" * 64
    assert cluster.replica.engine.slots == 7


@pytest.mark.parametrize(
    ("serving", "workers"),
    [
        ({}, (2, 0, 4)),
        ({"replicas": 20}, (2, 0, 10)),
        ({"cpus_per_replica": 6.5, "replicas": 5}, (7, 0, 5)),
        ({"gpus_per_replica": 0.5, "replicas": 12}, (2, 1, 6)),
        ({"cpus_per_replica": 0, "autoscaling": {"max_replicas": 9}}, (2, 0, 4)),
    ],
    ids=["default", "many", "large", "half a GPU", "no reservation"],
)
def test_nodes_are_made_for_the_replicas(
    serving: dict[str, Any], workers: tuple[int, int, int]
) -> None:
    """The worker nodes are large enough for a replica, and there are enough for all replicas."""
    made = installation(ServingConfig.model_validate(serving)).ray.workers
    assert (made.cpus, made.gpus, made.nodes_max) == workers


def test_an_open_application_cannot_be_described() -> None:
    """An application without a token, or one that listens on loopback only, cannot be exported."""
    with pytest.raises(ValueError, match="token_sha256"):
        ExportConfig.model_validate({"serving": {"replica": {"token_sha256": None}}})
    with pytest.raises(ValueError, match="host"):
        ExportConfig.model_validate({"serving": {"host": "127.0.0.1"}})
