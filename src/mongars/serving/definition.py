"""Convert a `ServingConfig` to Ray Serve's declarative configuration (`ServeDeploySchema`), as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.serving.config import APPLICATION, DEPLOYMENT

if TYPE_CHECKING:
    from mongars.serving.config import ServingConfig

BUILDER = "mongars.bootstrap.replica:application"
ROUTER = "mongars.serving.router:SessionRouter"
HEADROOM = 64
"""Requests that a replica accepts beyond its capacity: refusals that are delayed (`serving.refusals`), health
checks and broadcasts.
"""


def deploy_schema(config: ServingConfig) -> dict[str, Any]:
    """The definition of the Serve application for `config`: the dictionary that Serve's REST interface accepts as JSON.

    Its format is Ray Serve's `ServeDeploySchema`; the list `applications` has one entry. It is also the content of the
    file for `serve deploy`.
    """
    # Sampling is sent as `user_config`: in `args` a change would restart every replica.
    args = config.replica.model_dump(mode="json", exclude={"sampling"})
    return {
        "proxy_location": "EveryNode",
        # Without an explicit host the declarative form listens on every interface.
        "http_options": {
            "host": config.host,
            "port": config.port,
            "request_timeout_s": config.replica.answer_timeout + 30,
            "keep_alive_timeout_s": 90,
        },
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": BUILDER,
                "args": {"replica": args},
                "deployments": [_deployment(config)],
            }
        ],
    }


def _deployment(config: ServingConfig) -> dict[str, Any]:
    replica = config.replica
    deployment: dict[str, Any] = {
        "name": DEPLOYMENT,
        **_replicas(config),
        "max_ongoing_requests": replica.capacity + HEADROOM,
        # Counted per proxy, and a burst counts as queued until it is routed.
        "max_queued_requests": replica.capacity * config.most_replicas,
        "backpressure_config": {"status_code": 503, "retry_after_s": 2},
        "user_config": replica.sampling.model_dump(mode="json"),
        "ray_actor_options": {
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
        },
        "graceful_shutdown_timeout_s": config.drain_seconds,
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": 5,
        "health_check_timeout_s": 10,
        "max_surge_percent": config.max_surge_percent,
    }
    if config.session_affinity and not config.haproxy:
        deployment["request_router_config"] = {
            "request_router_class": ROUTER,
            "request_router_kwargs": {"busy_at": replica.engine.slots},
        }
    return deployment


def _replicas(config: ServingConfig) -> dict[str, Any]:
    scaling = config.autoscaling
    if scaling is None:
        return {"num_replicas": config.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "initial_replicas": min(
                max(config.replicas, scaling.min_replicas), scaling.max_replicas
            ),
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests
            or config.replica.engine.slots,
            "upscale_delay_s": scaling.upscale_delay,
            "downscale_delay_s": scaling.downscale_delay,
        }
    }
