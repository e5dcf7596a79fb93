"""Plan the local stack: which processes `mongars up` starts, with which environment."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mongars.bootstrap.checks import ray_check
from mongars.bootstrap.first_start import prepare_database
from mongars.bootstrap.secrets import RAY_TOKEN, SERVE_TOKEN, ensure_secret, secret_file
from mongars.bootstrap.stack.config import Service, StackConfig, StackParts
from mongars.bootstrap.stack.probe import http_answers
from mongars.core.clock import pause
from mongars.core.urls import reachable_host
from mongars.engines.provisioning.provision import provision, require_ready
from mongars.persistence.url import masked
from mongars.serving.config import ReplicaConfig
from mongars.settings import child_environment, passed_on

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mongars.api.first_run import FirstRun
    from mongars.bootstrap.stack.stage import StageProgress
    from mongars.engines.provisioning.spec import ProvisioningStep
    from mongars.settings import Settings


API_SECRETS = ("DATABASE_URL", "PGPASSWORD", "SECRET_KEY")
"""Secrets that only the API's process gets. The bootstrap key is not one: `mongars up` itself uses it earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """Options of `mongars up` that replace settings: `host` and `port` of the API, and the number of `replicas`.

    None: the setting applies. `use_ray` is False for `--no-ray`.
    """

    host: str | None = None
    port: int | None = None
    replicas: int | None = None
    use_ray: bool = True


@dataclass(slots=True, kw_only=True)
class LocalPlan:
    """What `mongars up` starts for one home folder: settings, ports, environment and tokens of the processes.

    `first_run` holds the first administrator's credentials once the stage `database` of the start has created that
    account; else None.
    """

    settings: Settings
    config: StackConfig
    serve_token: Mapping[str, str] = field(default_factory=dict, repr=False)
    """RAY_SERVE_TOKEN as an environment variable, for the two processes that need it: the API and the deployment."""
    use_given_ray: bool = True
    """Whether Ray endpoints in the settings may be used; False under `--no-ray`."""
    first_run: FirstRun | None = field(default=None, repr=False)

    def parts(self) -> StackParts:
        """The functions (model download, migration) and commands (deployment, API) that `LocalStack` is to run."""
        python, config = self.config.python, self.config
        argv = (python, "-m", "mongars", "api", "--host", config.host, "--port", str(config.port))
        host = reachable_host(config.host)

        async def ready() -> bool:
            return await http_answers(host, config.port, path="/healthz", holds=b'"ok"')

        async def answering() -> bool:
            holds = b'"status":"ready"'
            return await http_answers(host, config.port, path="/readyz", holds=holds)

        return StackParts(
            answering=answering,
            provision=self._provision,
            migrate=self._migrate,
            deploy=Service(
                argv=(python, "-m", "mongars.cli.serve", "--deploy"), secrets=self.serve_token
            ),
            api=Service(
                argv=argv, ready=ready, secrets={**passed_on(API_SECRETS), **self.serve_token}
            ),
        )

    def _provision(self, progress: StageProgress) -> str:
        def report(step: ProvisioningStep) -> None:
            fraction = step.done / step.total if step.total else None
            progress(f"{step.phase} {step.name}", fraction)

        config = self.settings.provisioning()
        statuses = provision(tuple(config.models), config=config, progress=report)
        require_ready(statuses)
        status = statuses[0]
        return status.name if status.action == "exists" else f"{status.name} {status.action}"

    def _migrate(self, progress: StageProgress) -> str:
        progress("migrating", None)

        waiting = "waiting for the database"

        def report(line: str) -> None:
            nonlocal waiting
            waiting = line

        def wait(seconds: float) -> None:
            progress(waiting, None)  # raises when the start was cancelled, which ends this thread
            pause(seconds)

        self.first_run = prepare_database(self.settings, wait=wait, report=report)
        return (
            masked(self.settings.database_url()).replace("+aiosqlite", "").replace("+psycopg", "")
        )


def local_plan(settings: Settings, options: UpOptions) -> LocalPlan:
    """Plan what `mongars up` starts with these settings and options; creates the home folder and the tokens in it.

    Starts nothing. Raises `ConfigurationError` if a setting is wrong or a token cannot be read or written.
    """
    values = settings.environment
    ray_check(settings)  # otherwise the error would appear only when the API starts
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    external = bool(values.ray_serve_url) or values.use_ray_serve is False
    use_ray = options.use_ray and not external
    config = StackConfig(
        home=settings.home,
        host=options.host or values.host,
        port=options.port or values.port,
        ray_http_port=values.ray_http_port,
        ray_port=values.ray_port,
        ray_dashboard_port=values.ray_dashboard_port,
        replicas=max(options.replicas or values.replicas, values.max_replicas or 1),
        haproxy=values.haproxy,
        use_ray=use_ray,
        python=sys.executable,
        environment=child_environment(_changes(settings, options, use_ray=use_ray)),
        ray_token=ensure_secret(settings.home, RAY_TOKEN) if use_ray else None,
    )
    if use_ray:
        token = {"RAY_SERVE_TOKEN": ensure_secret(settings.home, SERVE_TOKEN)}
    else:
        token = passed_on(["RAY_SERVE_TOKEN"])
    return LocalPlan(
        settings=settings, config=config, serve_token=token, use_given_ray=options.use_ray
    )


def _changes(settings: Settings, options: UpOptions, *, use_ray: bool) -> dict[str, str]:
    """The environment variables to set for all child processes of `mongars up`, in addition to the inherited ones.

    `use_ray`: whether a local Ray cluster is started, whose URL the variables then contain.
    """
    values = settings.environment
    replicas = options.replicas or values.replicas
    most = max(replicas, values.max_replicas or 1)
    changes = {
        "MONGARS_HOME": str(settings.home),
        "MONGARS_CACHE": str(settings.cache),
        "MONGARS_REPLICAS": str(replicas),
    }
    if not use_ray:
        return changes if options.use_ray else {**changes, "USE_RAY_SERVE": "false"}
    ensure_secret(settings.home, RAY_TOKEN)
    changes |= ray_access(settings)
    changes |= {
        "USE_RAY_SERVE": "true",
        "RAY_SERVE_URL": f"http://127.0.0.1:{values.ray_http_port}/generate",
    }
    if "ray_client_max_connections" not in values.model_fields_set:
        # As many as the replicas accept: the connection pool must not be a lower limit.
        places = values.slots + ReplicaConfig().max_waiting
        changes["RAY_CLIENT_MAX_CONNECTIONS"] = str(most * places)
        changes["RAY_CLIENT_MAX_KEEPALIVE"] = str(most * values.slots)
    return changes


def ray_access(settings: Settings) -> dict[str, str]:
    """The environment variables with which Ray's commands authenticate to the local stack's Ray cluster by token.

    Empty if the home folder has no token yet: `mongars up` generates it before the cluster's first start.
    """
    token = secret_file(settings.home, RAY_TOKEN)
    if not token.exists():
        return {}
    # Empty, since a RAY_AUTH_TOKEN of `.env` (for Compose, for example) would be taken for this cluster's.
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(token)}
