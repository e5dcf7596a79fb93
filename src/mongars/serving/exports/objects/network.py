"""NetworkPolicies: the first one refuses all connections in the namespace, the others allow single ones.

Ray's processes choose their ports themselves, so all ports between Ray pods are open. From outside, only the
KubeRay operator reaches GCS and the dashboard, and only the API reaches Serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.serving.exports.config import API_PORT
from mongars.serving.exports.objects import pods
from mongars.serving.exports.objects.api import API, MIGRATIONS
from mongars.serving.exports.objects.ray import DASHBOARD_PORT, HEAD, WORKER, autoscaled
from mongars.serving.exports.objects.storage import POSTGRES

if TYPE_CHECKING:
    from mongars.serving.exports.config import ExportConfig
    from mongars.serving.exports.objects.pods import ManifestFields

KUBERNETES_API_PORTS = (443, 6443)
TEST = "test"
"""The component label of the pod that `helm test` runs."""


def policies(config: ExportConfig) -> list[ManifestFields]:
    """All NetworkPolicies of the installation's namespace: they refuse every connection that none of them allows."""
    found = [
        _deny_all(config),
        _names(config),
        _api(config),
        _migrations(config),
        _ray(config),
        _ray_head(config),
        _ray_worker(config),
    ]
    return [*found, _postgres(config)] if config.database.bundled else found


def _policy(
    config: ExportConfig, suffix: str, pod_selector: ManifestFields, **rules: list[ManifestFields]
) -> ManifestFields:
    types = {"ingress": "Ingress", "egress": "Egress"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": pods.metadata(config, "network", suffix=f"-{suffix}"),
        "spec": {
            "podSelector": pod_selector,
            "policyTypes": [types[direction] for direction in rules],
            **{direction: found for direction, found in rules.items() if found},
        },
    }


def _deny_all(config: ExportConfig) -> ManifestFields:
    return _policy(config, "deny-all", {}, ingress=[], egress=[])


def _names(config: ExportConfig) -> ManifestFields:
    """The NetworkPolicy that allows all pods DNS queries to any address.

    In some clusters DNS runs on a node's address.
    """
    ports = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    return _policy(config, "dns", {}, egress=[{"ports": ports}])


def _api(config: ExportConfig) -> ManifestFields:
    clients = [*config.network.api_clients, _pods(config, TEST)]
    egress = [
        {"to": [_pods(config, WORKER)], "ports": [_tcp(config.serving.port)]},
        _to_database(config),
        *config.network.extra_egress,
    ]
    ingress = [{"from": clients, "ports": [_tcp(API_PORT)]}]
    return _policy(config, "api", _only(config, API), ingress=ingress, egress=egress)


def _migrations(config: ExportConfig) -> ManifestFields:
    return _policy(config, "migrations", _only(config, MIGRATIONS), egress=[_to_database(config)])


def _ray(config: ExportConfig) -> ManifestFields:
    ray_pods = {
        "matchLabels": {"app.kubernetes.io/instance": config.name},
        "matchExpressions": [
            {"key": "app.kubernetes.io/component", "operator": "In", "values": [HEAD, WORKER]}
        ],
    }
    egress = [{"to": [{"podSelector": ray_pods}]}, *config.network.extra_egress]
    ingress = [{"from": [{"podSelector": ray_pods}]}]
    return _policy(config, "ray", ray_pods, ingress=ingress, egress=egress)


def _ray_head(config: ExportConfig) -> ManifestFields:
    ports = [_tcp(DASHBOARD_PORT), _tcp(config.serving.port)]
    egress: list[ManifestFields] = []
    if autoscaled(config):  # its address is not known here
        egress.append({"ports": [_tcp(port) for port in KUBERNETES_API_PORTS]})
    if config.ray.gcs.storage == "redis":
        egress.append({"ports": [_tcp(config.ray.gcs.redis_port)]})
    ingress = [{"from": config.network.operator, "ports": ports}]
    return _policy(config, "ray-head", _only(config, HEAD), ingress=ingress, egress=egress)


def _ray_worker(config: ExportConfig) -> ManifestFields:
    ingress = [{"from": [_pods(config, API)], "ports": [_tcp(config.serving.port)]}]
    return _policy(config, "ray-worker", _only(config, WORKER), ingress=ingress)


def _postgres(config: ExportConfig) -> ManifestFields:
    clients = [_pods(config, API), _pods(config, MIGRATIONS)]
    ingress = [{"from": clients, "ports": [_tcp(5432)]}]
    return _policy(config, "postgres", _only(config, POSTGRES), ingress=ingress)


def _to_database(config: ExportConfig) -> ManifestFields:
    if config.database.bundled:
        return {"to": [_pods(config, POSTGRES)], "ports": [_tcp(5432)]}
    return {"ports": [_tcp(config.database.port)]}


def _only(config: ExportConfig, component: str) -> ManifestFields:
    return {"matchLabels": pods.selector(config, component)}


def _pods(config: ExportConfig, component: str) -> ManifestFields:
    return {"podSelector": _only(config, component)}


def _tcp(port: int) -> ManifestFields:
    return {"protocol": "TCP", "port": port}
