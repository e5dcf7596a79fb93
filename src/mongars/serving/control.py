"""Deploy, watch and remove the Serve application through the cluster's REST interface.

`serve deploy` and `serve status` use the same interface: declarative, and idempotent for an unchanged definition.
Nothing here joins the cluster, so it works from any machine that reaches the dashboard port.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.exceptions import AuthenticationError

from mongars.core.clock import pause
from mongars.core.errors import (
    Conflict,
    DeadlineExceeded,
    EndpointUnreachable,
    InferenceFailed,
    InvalidAnswer,
    NotAuthenticated,
)
from mongars.serving.application_state import (
    application_state,
    last_line,
    reason_of,
    replaced,
)
from mongars.serving.config import APPLICATION
from mongars.serving.definition import deploy_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.serving.application_state import ApplicationState
    from mongars.serving.config import ServingConfig

POLL_SECONDS = 0.1
SETTLE_SECONDS = 1.0
HTTP_TIMEOUT = (5, 60)
"""Seconds to connect, and to wait for a response; accepting a deployment can take long."""
GAVE_UP = {"DEPLOY_FAILED", "UNHEALTHY"}


class _Client(ServeSubmissionClient):  # type: ignore[misc] # Ray ships no types
    """Ray's client for Serve's REST interface, with timeouts, and without the HTTP proxy of the environment.

    Without timeouts it would wait forever for a dashboard that does not respond; a proxy meant for other hosts cannot
    reach the cluster. `timeout`: the pair (seconds to connect, seconds to wait for a response).
    """

    timeout = HTTP_TIMEOUT

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:  # noqa: ANN401
        return super()._do_request(
            method, endpoint, timeout=self.timeout, proxies={"no_proxy": "*"}, **options
        )


class ServeControl:
    """Deploys, watches and removes the monGARS application of one Ray cluster, over HTTP.

    `address` is the URL of the cluster's dashboard, such as `http://127.0.0.1:8265`; `token` the bearer token that it
    requires, None: none. `http_timeout`: the pair (seconds to connect, seconds to wait for a response); after either, a
    method raises `EndpointUnreachable`.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        http_timeout: tuple[float, float] = HTTP_TIMEOUT,
    ) -> None:
        self._address = address
        # Its constructor sends a request already, so the timeout has to be set on the class.
        self._client = type("_Client", (_Client,), {"timeout": http_timeout})
        self._headers = None if token is None else {"Authorization": f"Bearer {token}"}

    def deploy(
        self,
        config: ServingConfig,
        *,
        timeout: float,
        on_progress: Callable[[ApplicationState], None],
    ) -> ApplicationState:
        """Deploy the monGARS application and block until it is healthy with its target number of replicas running.

        Returns the final state. Other applications of the cluster stay. `timeout` is in seconds. `on_progress` is
        called with each state that is read meanwhile, about ten times a second.

        Raises:
            EndpointUnreachable: no dashboard responds at the address.
            NotAuthenticated: the cluster requires a token, or refuses the one given.
            InvalidAnswer: the dashboard refused the definition.
            Conflict: another definition was deployed meanwhile.
            InferenceFailed: the deployment failed; the message is Serve's.
            DeadlineExceeded: not all replicas run after `timeout` seconds; the deployment continues.
        """
        schema = deploy_schema(config)
        # A declarative deployment removes applications that it does not list, so the others are listed, too.
        schema["applications"] = [*schema["applications"], *self._others()]
        self._call(lambda client: client.deploy_applications(schema))
        sent = time.monotonic()
        until = sent + timeout
        wanted = config.replicas if config.autoscaling is None else None
        changing = False
        while True:
            details = self._call(lambda client: client.get_serve_details())
            state = application_state(details)
            on_progress(state)
            if replaced(details, schema["applications"][0]):
                detail = "Another definition was deployed meanwhile, and has replaced this one."
                raise Conflict(detail)
            # The controller takes a moment to act on a definition; until then it reports the state of
            # the previous one, which may be healthy.
            done = state.settled and (wanted is None or state.target == wanted)
            changing = changing or not done
            if done and (changing or time.monotonic() - sent > SETTLE_SECONDS):
                return state
            if state.status in GAVE_UP and time.monotonic() - sent > SETTLE_SECONDS:
                detail = f"The deployment is {state.status}: {reason_of(state)}"
                raise InferenceFailed(detail)
            if time.monotonic() >= until:
                break
            pause(POLL_SECONDS)
        detail = f"Not healthy after {timeout:g} s: {state.describe()}. {reason_of(state)}"
        raise DeadlineExceeded(detail)

    def status(self) -> ApplicationState:
        """The current state of the monGARS application on the cluster.

        Raises `EndpointUnreachable` if no dashboard responds, `NotAuthenticated` if the cluster requires another token,
        `InvalidAnswer` if the dashboard responds with an error.
        """
        return application_state(self._call(lambda client: client.get_serve_details()))

    def shutdown(self) -> None:
        """Remove the monGARS application from the cluster; other applications stay.

        Without others, Ray Serve itself is shut down, too. It is no error if the application is not deployed.

        Raises `EndpointUnreachable` if no dashboard responds, `NotAuthenticated` if the cluster requires another token,
        `InvalidAnswer` if the dashboard responds with an error.
        """
        others = self._others()
        if others:
            self._call(lambda client: client.deploy_applications({"applications": others}))
        else:
            self._call(lambda client: client.delete_applications())

    def _others(self) -> list[dict[str, Any]]:
        """The definitions (as they were deployed) of all applications of the cluster except monGARS."""
        details = self._call(lambda client: client.get_serve_details())
        found = details.get("applications", {})
        return [
            application["deployed_app_config"]
            for name, application in found.items()
            if name != APPLICATION and application.get("deployed_app_config")
        ]

    def _call(self, action: Callable[[ServeSubmissionClient], Any]) -> Any:  # noqa: ANN401
        try:
            return action(self._client(self._address, headers=self._headers))
        except OSError as exc:  # includes the exceptions of `requests`
            detail = (
                f"No Ray dashboard answers at {self._address}. Start Ray (`mongars up`, or"
                " `ray start --head`), or name the right one with --address."
            )
            raise EndpointUnreachable(detail) from exc
        except AuthenticationError as exc:
            detail = (
                f"The Ray cluster at {self._address} requires a token, or refuses this one."
                " Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
            )
            raise NotAuthenticated(detail) from exc
        except (RuntimeError, ValueError) as exc:
            detail = f"The Ray dashboard at {self._address} refused: {last_line(str(exc))}"
            raise InvalidAnswer(detail) from exc
