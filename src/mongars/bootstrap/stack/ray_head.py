"""The head node of a Ray cluster on loopback, of one node, beside which other clusters can run.

What `ray start` would do by default, in Ray 2.60, and what is changed here:

- It turns `--node-ip-address=127.0.0.1` into the address of the network card, and then all its servers listen on
  every interface. With `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0` the node keeps the given address. The cluster then
  also survives a change of network.
- It uses fixed ports: 10001 (client server), 52365 (dashboard agent), 44217 and 44227 (metrics of the autoscaler and
  the dashboard), 10002-19999 (workers). Two clusters collide there, and a head port inside the last range is
  refused. Here these servers are omitted or choose a free port.
- It starts the autoscaler's monitor and the log monitor, which serve larger clusters and attached drivers; here they
  are omitted.
- On SIGTERM it waits until the node has drained, which is useless when the whole cluster stops.
- Its UNIX sockets are below the temporary folder, and the path of a socket may have at most 107 bytes.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mongars.bootstrap.stack.probe import http_answers
from mongars.core.errors import ConfigurationError
from mongars.serving.config import NO_REPORTS, PROXY_GUARD

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK = "127.0.0.1"

_LOCAL_RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": NO_REPORTS,
    # Ray runs its workers, and so the engines, with niceness 15: any other process takes precedence.
    "RAY_worker_niceness": "0",
}
_OBJECT_STORE_BYTES = 150_000_000
_LONGEST_FOLDER = 32  # 107, less what is appended: /r/session_<time and pid>/sockets/<longest name>
_LONGEST_WITH_HAPROXY = 25  # 97, less what Ray appends: /h/<56 digits>/metrics.sock


@dataclass(frozen=True, slots=True, kw_only=True)
class RayHead:
    """The Ray head node of one local stack: the command line that starts it, its environment and its folders.

    Starts no process itself. `stack` is the stack's id, `python` the path of the interpreter, `port` that of Ray's head
    (GCS), `cpus` the number of CPUs that Ray may allocate.
    """

    python: str
    stack: str
    port: int
    dashboard_port: int
    cpus: int
    haproxy: bool = False
    """Whether requests arrive through HAProxy instead of Ray's own proxy."""
    token: str | None = None
    """The bearer token that the dashboard requires; None: no authentication."""

    @property
    def folder(self) -> Path:
        """The path of Ray's temporary folder on this stack's head node; the same at every start."""
        return self._private / "r"

    @property
    def _private(self) -> Path:
        """The folder (mode 0700) around Ray's temporary folder, which Ray itself makes accessible to all users."""
        name = f"mongars-{self.stack}"
        usual = Path(tempfile.gettempdir()) / name
        longest = _LONGEST_WITH_HAPROXY if self.haproxy else _LONGEST_FOLDER
        return usual if len(str(usual)) <= longest else Path("/tmp") / name  # noqa: S108

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line that starts the head node."""
        return (
            *(self.python, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            f"--node-ip-address={LOOPBACK}",
            f"--port={self.port}",
            f"--dashboard-host={LOOPBACK}",
            f"--dashboard-port={self.dashboard_port}",
            "--include-dashboard=true",
            "--dashboard-agent-listen-port=0",
            *("--min-worker-port=0", "--max-worker-port=0"),
            f"--num-cpus={self.cpus}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            f"--temp-dir={self.folder}",
            *("--no-monitor", "--include-log-monitor=false", "--disable-usage-stats"),
        )

    def head_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment for the head node's process: `environment` with Ray's variables, without `RAY_ADDRESS`."""
        ours = {
            "RAY_START_HOOK": "mongars.bootstrap.stack.ray_hook.local_head",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "DASHBOARD_METRIC_PORT": "0",
            "PYTHONUNBUFFERED": "1",
            **PROXY_GUARD,
            # By default, a dead proxy is replaced only after half a minute.
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        }
        # An address in the environment would make Ray's processes connect to another cluster.
        inherited = {key: value for key, value in environment.items() if key != "RAY_ADDRESS"}
        # Files that killed processes leave in the temporary folder are removed with this folder.
        fixed = {**_LOCAL_RAY, **self._haproxy(), "TMPDIR": str(self.folder)}
        return {**ours, **inherited, **fixed, **without_proxy(inherited)}

    def _haproxy(self) -> dict[str, str]:
        """Environment variables that put HAProxy's files and sockets into a private folder; empty without HAProxy.

        Whoever can open its administration socket controls HAProxy.
        """
        if not self.haproxy:
            return {}
        folder = self._haproxy_folder
        return {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        }

    def client_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment for a process that connects to this cluster: `environment`, with Ray's variables added."""
        address = {"RAY_ADDRESS": f"{LOOPBACK}:{self.port}"}
        return {**environment, **_LOCAL_RAY, **address, **without_proxy(environment)}

    @property
    def _haproxy_folder(self) -> Path:
        return self._private / "h"

    def prepare(self, logs: Path) -> None:
        """Create the head node's folders, remove files of an earlier run, and link Ray's logs into the folder `logs`.

        Raises:
            ConfigurationError: a file or another user's folder has the name of the private folder.
        """
        self._private.mkdir(mode=0o700, exist_ok=True)
        status = self._private.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            msg = f"{self._private} belongs to another user. Remove it, or set TMPDIR to a short path."
            raise ConfigurationError(msg)
        self._private.chmod(0o700)
        for leftover in self._private.iterdir():
            _remove(leftover)
        self.folder.mkdir()
        if self.haproxy:
            self._haproxy_folder.mkdir(mode=0o700)
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        link = logs / "ray-session"
        link.unlink(missing_ok=True)
        link.symlink_to(self.folder / "session_latest" / "logs")

    def remove(self) -> None:
        """Remove the head node's folders, ignoring errors; call it when all processes of the cluster have ended."""
        shutil.rmtree(self._private, ignore_errors=True)

    async def ready(self) -> bool:
        """Whether the cluster's dashboard responds within 3 seconds and reports a node as alive."""
        return await http_answers(
            LOOPBACK,
            self.dashboard_port,
            path="/nodes?view=summary",
            holds=b'"ALIVE"',
            token=self.token,
        )


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """`NO_PROXY` and `no_proxy`: the hosts that `environment` exempts from HTTP proxies, and the loopback ones."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    together = ",".join(dict.fromkeys([*hosts, LOOPBACK, "localhost", "::1"]))
    return {"NO_PROXY": together, "no_proxy": together}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
