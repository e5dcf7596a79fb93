"""Example installations for which the tests render every deployment artefact."""

from __future__ import annotations

from typing import Any

from mongars.serving.exports.config import ExportConfig
from mongars.serving.exports.kubernetes import dev, gpu


def _config(**values: Any) -> ExportConfig:
    return ExportConfig.model_validate(values)


INSTALLATIONS: dict[str, ExportConfig] = {
    "cpu": ExportConfig(),
    "gpu": gpu(ExportConfig()),
    "minimal": dev(ExportConfig()),
    "autoscaling": _config(
        serving={
            "autoscaling": {"min_replicas": 2, "max_replicas": 9, "upscale_delay": 2.5},
            "replicas": 3,
            "haproxy": True,
        },
        ray={"workers": {"nodes_min": 0, "nodes_max": 9, "node_selector": {"pool": "replicas"}}},
    ),
    "external-database": _config(
        api={"environment": {"RAY_CLIENT_TIMEOUT": "30", "OLLAMA_HOST": "http://ollama:11434"}},
        database={"port": 6432},
        registry={"existing_claim": "adapters", "storage_class": "nfs"},
        secrets={"name": "elsewhere", "image_pull": ["registry-login", "second"]},
        network={
            "api_clients": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
            "extra_egress": [{"ports": [{"protocol": "TCP", "port": 11434}]}],
        },
    ),
    "redis": _config(
        registry={"claim": True, "access_mode": "ReadWriteOnce"},
        ray={
            "gcs": {"storage": "redis", "redis_address": "redis.data:6380"},
            "environment": {"MONGARS_MAX_CONNECTIONS": "2000", "MONGARS_LOG_LEVEL": "debug"},
        },
    ),
    "rocksdb": _config(ray={"gcs": {"storage": "rocksdb", "storage_class": "fast"}}),
    "roles": _config(
        serving={
            "replica": {
                "coding": {"kind": "ollama", "url": "http://ollama:11434", "slots": 2},
                "embedding": {"model_name": "minilm", "context_tokens": 512},
                "sampling": {"temperature": 0.0},
                "generate_path": "/v2/generate",
            },
            "port": 8123,
            "session_affinity": False,
        }
    ),
}
