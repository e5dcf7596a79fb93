"""Properties of every pod and every container, in every example installation."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from installations import INSTALLATIONS
from validation import ROOT, all_ports, documents, pod_specs, resolved

from mongars.serving.exports.compose import files as compose_files
from mongars.serving.exports.config import RAY_BASE_IMAGE, RAY_VERSION, VERSION, ExportConfig
from mongars.serving.exports.export import render
from mongars.serving.exports.kubernetes import objects

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module", params=INSTALLATIONS.values(), ids=INSTALLATIONS.keys())
def installation(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return objects(request.param)


def test_no_pod_runs_as_root_or_with_rights_it_does_not_need(
    installation: list[dict[str, Any]],
) -> None:
    """Every pod satisfies Kubernetes' `restricted` level and has a read-only root file system."""
    pods = pod_specs(installation)
    assert len(pods) >= 4
    for name, pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_every_container_has_resources_and_a_version(
    installation: list[dict[str, Any]],
) -> None:
    """Every container has a memory limit, a CPU request and an image tag other than `latest`."""
    for name, pod in pod_specs(installation):
        for container in pod["spec"]["containers"]:
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name
            assert re.search(r"(:(?!latest$)[\w.-]+|@sha256:\w{64})$", container["image"]), name


def test_no_volume_of_a_pod_can_fill_its_node(installation: list[dict[str, Any]]) -> None:
    """Every `emptyDir` volume has a size limit."""
    for name, pod in pod_specs(installation):
        for volume in pod["spec"]["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], name


def test_a_drained_node_takes_neither_all_of_ray_nor_all_of_the_api(
    installation: list[dict[str, Any]],
) -> None:
    """The disruption budgets allow the eviction of one API pod, and of one Ray pod in a cluster of least size."""
    budgets = {
        entry["metadata"]["name"]: entry["spec"]
        for entry in installation
        if entry["kind"] == "PodDisruptionBudget"
    }
    service = next(entry for entry in installation if entry["kind"] == "RayService")
    (workers,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert budgets["mongars-api"]["maxUnavailable"] == 1
    assert budgets["mongars-ray"]["minAvailable"] == workers["minReplicas"]
    for name, pod in pod_specs(installation):
        chosen = selects(
            {"podSelector": budgets["mongars-ray"]["selector"]}, pod["metadata"]["labels"]
        )
        assert chosen is name.startswith("RayService"), name


def test_no_container_has_a_variable_twice(installation: list[dict[str, Any]]) -> None:
    """No container has two variables with the same name."""
    for name, pod in pod_specs(installation):
        for container in pod["spec"]["containers"]:
            names = [entry["name"] for entry in container.get("env", [])]
            assert len(names) == len(set(names)), name


def test_a_shared_volume_is_claimed_only_if_requested() -> None:
    """By default no volume is claimed; `registry.claim` claims one, and `secrets.image_pull` reaches every pod."""
    kinds = {entry["kind"] for entry in objects(ExportConfig())}
    assert "PersistentVolumeClaim" not in kinds
    claimed = objects(ExportConfig.model_validate({"registry": {"claim": True}}))
    assert "PersistentVolumeClaim" in {entry["kind"] for entry in claimed}
    login = ExportConfig.model_validate({"secrets": {"image_pull": ["login"]}})
    for name, pod in pod_specs(objects(login)):
        assert pod["spec"]["imagePullSecrets"] == [{"name": "login"}], name


def test_ray_pods_have_the_token_and_the_cluster_requires_its_own(
    installation: list[dict[str, Any]],
) -> None:
    """Serve and Ray's dashboard require a token, which the Ray pods get from a Secret."""
    service = next(entry for entry in installation if entry["kind"] == "RayService")
    assert service["spec"]["rayClusterConfig"]["authOptions"]["mode"] == "token"
    ray_pods = [pod for name, pod in pod_specs(installation) if name.startswith("RayService")]
    assert len(ray_pods) == 2
    for pod in ray_pods:
        environment = {entry["name"]: entry for entry in pod["spec"]["containers"][0]["env"]}
        reference = environment["RAY_SERVE_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert reference["key"] == "RAY_SERVE_TOKEN"
        assert "optional" not in reference
        assert environment["RAY_USAGE_STATS_ENABLED"]["value"] == "0"
    replica = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["replica"]
    assert replica["token_sha256"] == "0" * 64


def test_no_secret_is_written_down(installation: list[dict[str, Any]]) -> None:
    """No object contains the value of a secret; containers refer to Secrets by name."""
    assert not [entry for entry in installation if entry["kind"] == "Secret"]
    for name, pod in pod_specs(installation):
        for container in pod["spec"]["containers"]:
            for entry in container.get("env", []):
                secret = re.search(r"KEY|PASSWORD|TOKEN$|DATABASE_URL", entry["name"])
                by_reference = "valueFrom" in entry or "$(POSTGRES_PASSWORD)" in entry["value"]
                assert by_reference or not secret, f"{name}: {entry['name']}"


def test_the_network_refuses_everything_and_opens_something_for_every_pod(
    installation: list[dict[str, Any]],
) -> None:
    """The network policies deny all traffic by default, and each pod is selected by a policy that allows some."""
    policies = [entry["spec"] for entry in installation if entry["kind"] == "NetworkPolicy"]
    deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert deny in policies
    for name, pod in pod_specs(installation):
        labels = pod["metadata"]["labels"]
        chosen = [spec for spec in policies if spec["podSelector"] and selects(spec, labels)]
        assert chosen, name


def test_ray_is_reached_by_the_api_at_serve_and_by_the_operator_only(
    installation: list[dict[str, Any]],
) -> None:
    """Only Ray pods reach GCS, and apart from them only the operator reaches the dashboard."""
    for entry in installation:
        if entry["kind"] != "NetworkPolicy" or "-ray" not in entry["metadata"]["name"]:
            continue
        for rule in entry["spec"].get("ingress", []):
            assert rule["from"]
            ports = {port["port"] for port in rule.get("ports", [])}
            between_ray_pods = "matchExpressions" in str(rule["from"])
            assert between_ray_pods or ports, entry["metadata"]["name"]
            assert 6379 not in ports
            if 8265 in ports:
                assert "kuberay-operator" in str(rule["from"])


def test_images_and_clusters_agree_with_the_pinned_ray() -> None:
    """Python package, base image and manifests have the Ray version that `pyproject.toml` pins."""
    pin = next(entry for entry in PROJECT["optional-dependencies"]["serve"] if "ray[" in entry)
    assert pin == f"ray[serve]=={RAY_VERSION}"
    assert RAY_BASE_IMAGE.startswith(f"rayproject/ray:{RAY_VERSION}-py311")
    assert PROJECT["version"] == VERSION
    for entry in objects(ExportConfig()):
        if entry["kind"] == "RayService":
            assert entry["spec"]["rayClusterConfig"]["rayVersion"] == RAY_VERSION
    assert RAY_BASE_IMAGE in (ROOT / "deploy" / "docker" / "ray.Dockerfile").read_text()


def test_compose_publishes_on_loopback_only_and_never_the_database() -> None:
    """Without `BIND_ADDRESS`, Compose publishes ports on loopback only, and never that of the database."""
    project = documents(compose_files(ExportConfig())["docker-compose.yml"])[0]
    ports = [resolved(port) for port in all_ports(project)]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in project["services"]["postgres"]


def test_no_artefact_knows_a_tag_that_moves() -> None:
    """No exported file contains the tag `latest`."""
    for kind in ("serve", "k8s", "helm", "compose"):
        for path, text in render(kind, ExportConfig()).items():
            assert ":latest" not in text, path


def selects(spec: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether the pod selector of a network policy matches the labels."""
    selector = spec["podSelector"]
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    among = all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", [])
    )
    return exact and among
