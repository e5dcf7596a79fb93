"""The manifests, checked with kustomize and the schemas of Kubernetes and KubeRay."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from installations import INSTALLATIONS
from validation import ROOT, kubernetes_problems, kustomize, pod_specs

from mongars.serving.definition import deploy_schema
from mongars.serving.exports.config import ExportConfig
from mongars.serving.exports.export import write
from mongars.serving.exports.kubernetes import files, objects, overlays

if TYPE_CHECKING:
    from pathlib import Path

COMMITTED = ROOT / "deploy" / "k8s"
OVERLAYS = ("cpu", "dev", "gpu")


@pytest.fixture(scope="module", params=INSTALLATIONS.values(), ids=INSTALLATIONS.keys())
def installation(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return objects(request.param)


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_committed_manifests_build_and_satisfy_the_schemas(folder: str) -> None:
    """The committed manifests build with kustomize and satisfy the schemas."""
    built = kustomize(COMMITTED / folder)
    assert len(built) > 10
    assert kubernetes_problems(built) == []


@pytest.mark.parametrize("base", ["cpu", "autoscaling", "external-database"])
def test_overlays_build_exactly_the_configuration_they_stand_for(base: str, tmp_path: Path) -> None:
    """The patches of an overlay turn the base into exactly the objects of the overlay's configuration."""
    config = INSTALLATIONS[base]
    write(files(config), tmp_path, kind="k8s")
    for name, changed in overlays(config).items():
        built = by_name(kustomize(tmp_path / "overlays" / name))
        built.pop(("Namespace", config.namespace))
        assert built == by_name(objects(changed))


def test_kustomize_renames_the_images_of_every_pod_ray_included(tmp_path: Path) -> None:
    """`images` in a kustomization replaces the images of every pod, those of Ray included."""
    write(files(ExportConfig()), tmp_path, kind="k8s")
    images = [
        {"name": name, "newName": f"registry.test/{name}", "newTag": "9"}
        for name in ("mongars-api", "mongars-ray")
    ]
    mine = {"resources": ["../overlays/cpu"], "images": images}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(mine))
    used = {
        container["image"]
        for _, pod in pod_specs(kustomize(tmp_path / "mine"))
        for container in pod["spec"]["containers"]
    }
    assert used == {"registry.test/mongars-api:9", "registry.test/mongars-ray:9"}


def test_every_installation_satisfies_the_schemas(installation: list[dict[str, Any]]) -> None:
    """The objects of every example installation satisfy the schemas."""
    assert kubernetes_problems(installation) == []


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_the_cluster_runs_the_very_definition_of_the_deploy_command(name: str) -> None:
    """`serveConfigV2` is the definition that `--deploy` deploys."""
    config = INSTALLATIONS[name]
    service = by_name(objects(config))["RayService", "mongars"]
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == deploy_schema(config.serving)


MISTAKES = {
    "misspelt field of a pod": ("Deployment", "/spec/template/spec/terminationGracePeriod", 3),
    "text where a number belongs": ("HorizontalPodAutoscaler", "/spec/maxReplicas", "many"),
    "field the operator does not know": ("RayService", "/spec/rayClusterConfig/authOption", {}),
    "unknown authentication mode": ("RayService", "/spec/rayClusterConfig/authOptions/mode", "no"),
    "Serve configuration Ray refuses": ("RayService", "/spec/serveConfigV2", "applications: 3"),
    "policy for a protocol that is none": (
        "NetworkPolicy",
        "/spec/egress",
        [{"ports": [{"port": {}}]}],
    ),
}


@pytest.mark.parametrize(("kind", "path", "value"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_in_manifests_are_caught(kind: str, path: str, value: Any) -> None:
    """A manifest with a mistake is reported."""
    wrong = copy.deepcopy(next(entry for entry in objects(ExportConfig()) if entry["kind"] == kind))
    assert kubernetes_problems([wrong]) == []
    *parents, last = path.strip("/").split("/")
    at = wrong
    for key in parents:
        at = at[key]
    at[last] = value
    assert kubernetes_problems([wrong]) != []


def by_name(entries: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    found = {(entry["kind"], entry["metadata"]["name"]): entry for entry in entries}
    assert len(found) == len(entries)
    return found
