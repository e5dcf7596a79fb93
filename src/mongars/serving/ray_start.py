"""A hook that `ray start` calls (`RAY_START_HOOK`) before it starts any process: switches usage reports off.

Ray 2.60 sends one usage report even if reports are switched off, and first queries the metadata addresses of three
cloud providers (`UsageStatsHead.run`). No variable prevents either. One module of the dashboard does both, so the
dashboard is started with all modules except that one.
"""

from __future__ import annotations

from typing import Any

from ray._private import services
from ray._private.ray_constants import PROCESS_TYPE_DASHBOARD

DASHBOARD_MODULES = (
    "DataHead",
    "EventHead",
    "JobHead",
    "MetricsHead",
    "NodeHead",
    "PlatformEventsHead",
    "ReportHead",
    "ServeHead",
    "StateHead",
    "TaskEventsHead",
    "TrainHead",
)
"""Every module of Ray's dashboard except `UsageStatsHead`."""


def without_usage_reports(_parameters: object, _is_head: bool) -> None:  # noqa: FBT001
    """Make Ray start its dashboard without the module that sends usage reports and queries cloud providers' addresses.

    A `RAY_START_HOOK`: `ray start` calls it before it starts any process; the arguments are not used. Replaces a
    private function of Ray.
    """
    start = services.start_ray_process

    def start_ray_process(command: list[str], process_type: str, *rest: Any, **more: Any) -> Any:  # noqa: ANN401
        if process_type == PROCESS_TYPE_DASHBOARD:
            command = [*command, f"--modules-to-load={','.join(DASHBOARD_MODULES)}"]
        return start(command, process_type, *rest, **more)

    services.start_ray_process = start_ray_process
