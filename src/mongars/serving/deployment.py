"""The Ray Serve deployment class, a thin wrapper of `Replica`.

`LLMDeployment.bind(build_replica, config)` takes the factory by reference: `bootstrap` chooses the parts of a
replica, and they are not pickled into the cluster.
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
    """The Ray Serve deployment: each replica is one Ray actor with the HTTP interface and the engines.

    Both are in one actor, which saves a network hop.
    """

    async def __init__(  # type: ignore[misc] # Ray awaits it
        self,
        build_replica: Callable[[ReplicaConfig, str], tuple[Replica, Observer]],
        config: dict[str, Any],
    ) -> None:
        """Build the replica and start its engines; Serve reports the replica HEALTHY only after that.

        `build_replica` is called with the parsed `config` (the JSON of a `ReplicaConfig`) and the id of the replica in
        Serve; it returns the replica, not started, and the observer of its events.

        Raises `ValueError` for an invalid `config`, the exceptions of `build_replica`, and `InferenceFailed` if an
        engine cannot start.
        """
        name = serve.get_replica_context().replica_id.unique_id
        self._replica, self._observer = build_replica(ReplicaConfig.model_validate(config), name)
        await self._replica.start()
        self._observer.observe(Note(log=log_events.DEPLOYMENT_READY, values={"replica": name}))

    def __serve_build_asgi_app__(self) -> AsgiApp:
        """Build the ASGI application to which Serve sends this replica's HTTP requests; Serve calls this."""
        return build_ingress(self._replica)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Use the sampling defaults in `user_config` (the JSON of a `SamplingDefaults`) for further requests.

        Invalid values are logged and ignored, never raised, since Serve stops a replica whose `reconfigure` raises.
        Returns quickly, since Serve sends no request to a replica meanwhile.
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
        """Raise `NotReady` if the embedder or an engine has failed or stopped; a restarting one is healthy.

        Engines that serve only requests that demand their adapter are left out. Serve calls this periodically and
        replaces a replica for which it raises repeatedly.
        """
        status = self._replica.engine_status
        if status.state in {"failed", "stopped"}:
            raise NotReady(status.detail or status.state)
