"""Configurations that are refused before they are deployed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from mongars.serving.application_state import replaced
from mongars.serving.config import ReplicaConfig, SamplingDefaults, ServingConfig
from mongars.serving.definition import deploy_schema


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param({"cpus_per_replica": math.inf}, "cpus_per_replica", id="infinite-cpus"),
        pytest.param({"gpus_per_replica": 1.5}, "whole numbers", id="gpu-and-a-half"),
        pytest.param(
            {"replica": {"engine": {"kind": "ollama", "url": "http://u:secret@box:11434"}}},
            "no credentials",
            id="credentials",
        ),
        pytest.param(
            {"replica": {"engine": {"kind": "ollama", "url": "ftp://box"}}}, "address", id="ftp"
        ),
        pytest.param(
            {"replica": {"embedding": {"kind": "ollama"}}}, "embedding.kind", id="embedding-kind"
        ),
        pytest.param(
            {"replica": {"generate_path": "/v1/models"}}, "of the replica's own", id="own-path"
        ),
        pytest.param(
            {"autoscaling": {"min_replicas": 3, "max_replicas": 2}}, "max_replicas", id="bounds"
        ),
    ],
)
def test_impossible_definitions_are_refused(wrong: dict[str, Any], says: str) -> None:
    """An impossible configuration is refused with an error that names the mistake."""
    with pytest.raises(ValidationError, match=says):
        ServingConfig.model_validate(wrong)


def test_another_deployment_in_between_is_noticed() -> None:
    """If the cluster's application is not the one that was sent, another caller's deployment has replaced it."""
    ours = deploy_schema(ServingConfig())["applications"][0]
    other = ReplicaConfig(sampling=SamplingDefaults(temperature=0.1))
    theirs = deploy_schema(ServingConfig(replica=other))["applications"][0]

    def told(application: dict[str, Any]) -> dict[str, Any]:
        return {"applications": {"mongars": {"deployed_app_config": application}}}

    assert not replaced(told(ours), ours)
    assert replaced(told(theirs), ours)
    assert not replaced({"applications": {}}, ours), "nothing is told yet"
