"""The Serve application's definition, validated without a cluster by Ray's own schema."""

from __future__ import annotations

import pytest
from ray.serve.schema import ServeDeploySchema

from mongars.serving.config import EngineSpec, ReplicaConfig, SamplingDefaults, ServingConfig
from mongars.serving.definition import deploy_schema


def test_definition_satisfies_rays_schema() -> None:
    """Ray's schema accepts the definition."""
    ServeDeploySchema.model_validate(deploy_schema(ServingConfig()))


def test_definition_never_listens_everywhere_by_itself() -> None:
    """The definition always has the host, because Ray's default is all interfaces; monGARS' default is loopback."""
    assert deploy_schema(ServingConfig())["http_options"]["host"] == "127.0.0.1"


def test_sampling_changes_reach_replicas_without_replacing_them() -> None:
    """A changed sampling default changes only `user_config`, so that replicas are not replaced."""
    first = deploy_schema(ServingConfig())["applications"][0]
    replica = ReplicaConfig(sampling=SamplingDefaults(temperature=0.1))
    second = deploy_schema(ServingConfig(replica=replica))["applications"][0]
    assert first["args"] == second["args"]
    assert first["deployments"][0]["user_config"] != second["deployments"][0]["user_config"]


def test_replica_has_room_for_its_slots_its_queue_and_health_checks() -> None:
    """Serve admits more concurrent requests to a replica than the replica has slots and queue places."""
    replica = ReplicaConfig(engine=EngineSpec(slots=3), max_waiting=5)
    deployment = deploy_schema(ServingConfig(replica=replica))["applications"][0]["deployments"][0]
    assert deployment["max_ongoing_requests"] > 8


@pytest.mark.parametrize(
    "wrong", [{"replicas": 0}, {"port": 0}, {"hots": "x"}], ids=["replicas", "port", "misspelt"]
)
def test_wrong_definitions_are_refused(wrong: dict[str, object]) -> None:
    """A misspelt or impossible setting never reaches the cluster."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServingConfig(**wrong)


def test_queue_overflows_of_serve_itself_carry_retry_after() -> None:
    """The 503 that Serve itself sends when its queue is full has `Retry-After`."""
    deployment = deploy_schema(ServingConfig())["applications"][0]["deployments"][0]
    assert deployment["backpressure_config"]["status_code"] == 503
    assert deployment["backpressure_config"]["retry_after_s"] > 0
