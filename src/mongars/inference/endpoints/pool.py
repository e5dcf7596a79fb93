"""The states of all Ray endpoints, and the operations on them.

Three things keep requests away from an endpoint:

- its circuit breaker, after failures (`breaker`);
- a wait: `Retry-After` of a busy response, never shortened by a later one, or a rest after
  `rest_after` busy responses in a row (`outcomes`). During a rest requests skip the endpoint; after it,
  and after a wait longer than `MAX_REST_SECONDS`, one trial request at a time is sent there until an
  answer starts;
- an operator who drained it (`endpoint_status`).

Requests wait only for a `Retry-After`, not for a breaker, a rest or a drained endpoint. An endpoint at its
concurrency limit (`aimd_limit`) is chosen only when all are at theirs. The `RequestQueue` bounds the
requests in flight at all endpoints together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.inference.endpoints.endpoint_status import EndpointControl
from mongars.inference.endpoints.leases import EndpointLeases
from mongars.inference.endpoints.outcomes import EndpointOutcomes
from mongars.inference.endpoints.probes import EndpointProbes
from mongars.inference.endpoints.selection import EndpointSelection
from mongars.inference.endpoints.table import EndpointTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.core.clock import Clock


class EndpointPool:
    """The states of all Ray endpoints, which belong to one Serve application or to several that serve the same models.

    The attributes are operations on these states: `selection` chooses an endpoint, `leases` gives permission to send a
    request and counts those in flight, `outcomes` records how requests end, `probes` decides which endpoints are
    probed, `control` shows the states to operators, drains and resets endpoints.
    """

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        clock: Clock,
        rest_after: int,
        random: Callable[[], float],
        max_requests: int = 0,
        sole_provider: bool = False,
    ) -> None:
        """`urls`: those of the endpoints, in configured order.

        `max_requests`: requests in flight at all endpoints together, from which the first limit of each endpoint is
        derived: an equal part, rounded up, but at least 8; 0, the default, gives 8. `rest_after`: busy responses in a
        row after which no requests are sent to an endpoint for some seconds; less than 1 means 1. `random` returns a
        number in [0, 1). `sole_provider`: no other provider can answer, so that circuit breakers are ignored while more
        than half of them are open.
        """
        table = EndpointTable(
            urls,
            clock=clock,
            random=random,
            rest_after=rest_after,
            max_requests=max_requests,
            sole_provider=sole_provider,
        )
        self.selection = EndpointSelection(table)
        self.leases = EndpointLeases(table)
        self.outcomes = EndpointOutcomes(table)
        self.probes = EndpointProbes(table)
        self.control = EndpointControl(table)
