"""The manifests in the guide to clusters satisfy the schemas of KubeRay."""

from __future__ import annotations

import re
from typing import Any

import pytest
from validation import ROOT, closed, documents, read_schema, schema_problems

BLOCK = re.compile(r"^```yaml\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SCHEMAS = {"RayCluster": "raycluster-v1", "RayService": "rayservice-v1"}


def manifests() -> list[dict[str, Any]]:
    page = (ROOT / "docs" / "guide" / "cluster.md").read_text(encoding="utf-8")
    return [entry for block in BLOCK.finditer(page) for entry in documents(block["text"])]


def gcs_options(manifest: dict[str, Any]) -> dict[str, Any]:
    spec = manifest["spec"]
    return spec.get("rayClusterConfig", spec)["gcsFaultToleranceOptions"]


def test_the_guide_shows_both_ways_to_keep_the_state() -> None:
    """The guide has a manifest for each way to keep the cluster's state: Redis and a volume (RocksDB)."""
    assert [gcs_options(manifest)["backend"] for manifest in manifests()] == ["redis", "rocksdb"]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: gcs_options(m)["backend"])
def test_manifest_has_the_operators_own_shape(manifest: dict[str, Any]) -> None:
    """Every field of the guide's manifests exists in KubeRay 1.7 and has a value that KubeRay accepts."""
    assert schema_problems(manifest, closed(read_schema(SCHEMAS[manifest["kind"]]))) == []


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: gcs_options(m)["backend"])
def test_a_mistake_would_be_noticed(manifest: dict[str, Any]) -> None:
    """The schema check reports a misspelt option and an unknown backend."""
    options = gcs_options(manifest)
    options |= {"backend": "etcd", "redisAdress": "redis:6379"}
    assert len(schema_problems(manifest, closed(read_schema(SCHEMAS[manifest["kind"]])))) == 2
