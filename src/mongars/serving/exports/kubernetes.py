"""The Kubernetes export: a kustomize base and the overlays `cpu` (the unchanged base), `gpu` and `dev`.

Each overlay is a configuration of its own; its patches are computed from the difference to the base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.serving.config import EngineSpec
from mongars.serving.exports.config import ExportConfig, ResourceSize
from mongars.serving.exports.json_patch import difference
from mongars.serving.exports.objects import api, network, ray, storage
from mongars.serving.exports.text import as_file, as_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mongars.serving.exports.objects.pods import ManifestFields

GPU_MODEL = "general"
GPU_MODEL_PATH = "/opt/mongars/general"
KUSTOMIZATION = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
ABOUT_GPU = f"""
Replicas run vLLM on one GPU each. The image `<ray image>:<tag>-gpu` is yours to make: vLLM beside
what the Ray image has, and a model folder in Hugging Face's format at {GPU_MODEL_PATH}.
"""


def files(config: ExportConfig) -> dict[str, str]:
    """The files of the Kubernetes export (`base/`, `overlays/{cpu,gpu,dev}/`), as a map of relative path to text."""
    found = {"base/namespace.yaml": as_file(_namespace(config))}
    groups = grouped(config)
    for name, group in groups.items():
        found[f"base/{name}"] = as_file(*group)
    names = ["namespace.yaml", *groups]
    found["base/kustomization.yaml"] = as_file({**KUSTOMIZATION, "resources": names})
    for name, changed in overlays(config).items():
        for file, text in _overlay(config, changed).items():
            found[f"overlays/{name}/{file}"] = text
    return found


def overlays(config: ExportConfig) -> dict[str, ExportConfig]:
    """The configuration for each Kustomize overlay (`cpu`, `gpu`, `dev`), by the overlay's name."""
    return {"cpu": config, "gpu": gpu(config), "dev": dev(config)}


def gpu(config: ExportConfig) -> ExportConfig:
    """A copy of the configuration for GPUs: replicas run vLLM on one GPU each, on worker nodes with a GPU.

    The Ray image has the tag with `-gpu` appended, and must have a model folder at `/opt/mongars/general`.
    """
    values = config.model_dump(mode="json")
    values["serving"]["gpus_per_replica"] = 1.0
    values["serving"]["replica"]["engine"] = EngineSpec(
        kind="vllm",
        model_name=GPU_MODEL,
        model_path=GPU_MODEL_PATH,
        slots=32,
        context_tokens=8192,
    ).model_dump(mode="json")
    ray_values = values["ray"]
    ray_values["image"] |= {"tag": f"{config.ray.image.tag}-gpu", "digest": ""}
    ray_values["workers"] |= {
        "cpus": max(4, config.ray.workers.cpus),
        "memory": "24Gi",
        "gpus": max(1, config.ray.workers.gpus),
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    return ExportConfig.model_validate(values)


def dev(config: ExportConfig) -> ExportConfig:
    """A copy of the configuration for one small node: one API process, one worker, the bundled database."""
    values = config.model_dump(mode="json")
    values["serving"] |= {"replicas": 1, "autoscaling": None}
    small = ResourceSize(cpu="250m", memory="2Gi").model_dump()
    values["api"] |= {"replicas_min": 1, "replicas_max": 1, "size": small}
    values["ray"] |= {"head": small, "upgrade": "None"}
    values["ray"]["workers"] |= {"nodes_min": 1, "nodes_max": 1}
    values["registry"] |= {"access_mode": "ReadWriteOnce", "size": "1Gi"}
    values["database"]["bundled"] = True
    return ExportConfig.model_validate(values)


def grouped(config: ExportConfig) -> dict[str, list[ManifestFields]]:
    """The Kubernetes objects of an installation, by the name of the manifest file; files without objects are omitted.

    The Namespace is not among them.
    """
    made = config.registry.claim and not config.registry.existing_claim
    claim = [storage.registry_claim(config)] if made else []
    groups = {
        "accounts.yaml": [api.service_account(config), ray.service_account(config)],
        "network.yaml": network.policies(config),
        "registry.yaml": claim,
        "postgres.yaml": storage.postgres(config) if config.database.bundled else [],
        "migrations.yaml": [api.migrations(config)],
        "ray.yaml": [ray.ray_service(config), ray.disruption_budget(config)],
        "api.yaml": [
            api.deployment(config),
            api.service(config),
            api.autoscaler(config),
            api.disruption_budget(config),
        ],
    }
    return {name: group for name, group in groups.items() if group}


def objects(config: ExportConfig) -> list[ManifestFields]:
    """All Kubernetes objects of an installation, except the Namespace."""
    return [entry for group in grouped(config).values() for entry in group]


def _namespace(config: ExportConfig) -> ManifestFields:
    """The Kubernetes Namespace of an installation.

    Its pod security level makes Kubernetes refuse pods with more rights than these need.
    """
    levels = ("enforce", "audit", "warn")
    labels = {f"pod-security.kubernetes.io/{level}": "restricted" for level in levels}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": config.namespace, "labels": labels},
    }


def _overlay(base: ExportConfig, changed: ExportConfig) -> dict[str, str]:
    before = {_identity(entry): entry for entry in objects(base)}
    after = {_identity(entry): entry for entry in objects(changed)}
    added = [entry for identity, entry in after.items() if identity not in before]
    patches = list(_patches(before, after))
    kustomization: ManifestFields = {**KUSTOMIZATION, "resources": ["../../base"]}
    files = {}
    if added:
        files["added.yaml"] = as_file(*added)
        kustomization["resources"].append("added.yaml")
    if patches:
        kustomization["patches"] = patches
    about = ABOUT_GPU.strip() if changed.serving.gpus_per_replica else ""
    files["kustomization.yaml"] = as_file(kustomization, about=about)
    return files


def _patches(
    before: dict[tuple[str, str], ManifestFields], after: dict[tuple[str, str], ManifestFields]
) -> Iterator[ManifestFields]:
    for (kind, name), entry in before.items():
        wanted = after.get((kind, name))
        target = {"kind": kind, "name": name}
        if wanted is None:
            version, metadata = entry["apiVersion"], {"name": name}
            deletion = {"apiVersion": version, "kind": kind, "metadata": metadata}
            yield {"target": target, "patch": as_yaml({**deletion, "$patch": "delete"})}
        elif operations := difference(entry, wanted):
            yield {"target": target, "patch": as_yaml(operations)}


def _identity(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["kind"], entry["metadata"]["name"]
