"""The Ray Serve deployment, a thin wrapper of a replica.

`LLMDeployment.bind(build_replica, config)` takes the factory by reference, so that what a replica
is made of is decided by the composition root and not pickled into the cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ray import serve

from mongars.core.errors import NotReady
from mongars.core.observe import Note, Observer
from mongars.serving import log_events
from mongars.serving.config import DEPLOYMENT, ReplicaConfig, SamplingDefaults
from mongars.serving.ingress import build_ingress

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.protocol.asgi import AsgiApp
    from mongars.serving.replica import Replica


@serve.deployment(name=DEPLOYMENT)
@serve.ingress()
class LLMDeployment:
    """One replica: HTTP ingress and engine client in one deployment, to save a hop."""

    async def __init__(  # type: ignore[misc] # Ray awaits it
        self,
        build_replica: Callable[[ReplicaConfig, str], tuple[Replica, Observer]],
        config: dict[str, Any],
    ) -> None:
        """Start the engines; Serve reports the replica HEALTHY only after that."""
        name = serve.get_replica_context().replica_id.unique_id
        self._replica, self._observer = build_replica(ReplicaConfig.model_validate(config), name)
        await self._replica.start()
        self._observer.observe(Note(log=log_events.DEPLOYMENT_READY, values={"replica": name}))

    def __serve_build_asgi_app__(self) -> AsgiApp:
        """The application Serve routes requests to."""
        return build_ingress(self._replica)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Use new sampling defaults.

        Never raises, since Serve stops a replica whose `reconfigure` raises; and never takes long, since
        Serve sends no request to a replica while this runs.
        """
        try:
            sampling = SamplingDefaults.model_validate(user_config)
        except ValidationError as exc:
            problem = {"detail": str(exc)}
            self._observer.observe(Note(log=log_events.DEPLOYMENT_REJECTED, values=problem))
            return
        self._replica.use_defaults(sampling)
        self._observer.observe(Note(log=log_events.DEPLOYMENT_UPDATED))

    def check_health(self) -> None:
        """Raise `NotReady` if an active engine has failed; one that restarts is healthy."""
        status = self._replica.engine_status
        if status.state in {"failed", "stopped"}:
            raise NotReady(status.detail or status.state)
