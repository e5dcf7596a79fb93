"""Choose the replica of a request: the one that has the conversation's prompt in its cache, unless it is busy.

Consistent hashing with virtual nodes (Karger et al. 1997) maps a conversation (`x-session-id`) to a replica, so its
prompt is found in that replica's cache, and few conversations move when replicas start or stop. Loads are bounded
(Mirrokni et al. 2018): a request whose replica has all slots in use is sent to the least loaded one instead.
Requests without a conversation are sent to the least loaded replica.
"""

from __future__ import annotations

import random
import time
from collections import deque
from typing import TYPE_CHECKING

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

if TYPE_CHECKING:
    from ray.serve._private.common import ReplicaID
    from ray.serve._private.request_router.common import PendingRequest
    from ray.serve._private.request_router.replica_wrapper import RunningReplica

MEMORY_SECONDS = 1.0
"""Seconds for which a choice counts as load if its request is never sent (cancelled, or refused by the replica)."""


class SessionRouter(ConsistentHashRouter):  # type: ignore[misc] # Ray ships no types
    """Routes the requests of a conversation (`x-session-id`) to the replica that has its prompt in the cache.

    While that replica is busy, and for requests without a conversation, the least loaded one is chosen. Ray Serve makes
    and calls it (`request_router_class`).
    """

    def initialize_state(self, busy_at: int, **kwargs: int) -> None:
        """Set the router's arguments; Serve calls this once. A replica with `busy_at` requests or more counts as busy.

        `kwargs` are arguments of `ConsistentHashRouter`.
        """
        super().initialize_state(**kwargs)
        self._busy_at = busy_at
        # Requests of a burst are routed before Serve counts any of them: without this record all of
        # them would go to the replica that was free for the first one.
        self._chosen: deque[tuple[float, ReplicaID]] = deque()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Rank the replicas for a request: first the conversation's if not busy, else the least loaded one.

        Returns groups of replicas; Serve tries them in order, the least loaded replica of a group first.
        `pending_request` None: the ranking of `ConsistentHashRouter`.
        """
        ranks: list[list[RunningReplica]] = await super().choose_replicas(
            candidate_replicas, pending_request
        )
        if pending_request is None or len(candidate_replicas) == 1 or not ranks:
            return ranks
        if pending_request.metadata.session_id:
            first = self._with_bound(ranks[0][0], candidate_replicas)
        else:
            first = self._least(candidate_replicas)
        self._chosen.append((time.monotonic(), first.replica_id))
        return [[first], *ranks, candidate_replicas]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Remove the record that this router chose the replica `replica_id` for a request that Serve sends now.

        Serve calls this; from then on, it counts the request itself.
        """
        super().on_send_request(replica_id)
        for entry in self._chosen:
            if entry[1] == replica_id:
                self._chosen.remove(entry)
                return

    def _with_bound(self, home: RunningReplica, candidates: list[RunningReplica]) -> RunningReplica:
        return home if self._load(home) < self._busy_at else self._least(candidates)

    def _least(self, candidates: list[RunningReplica]) -> RunningReplica:
        """The candidate with the fewest requests; if several have equally few, a random one of them.

        The choice is random so that several routers do not all choose the same replica.
        """
        return min(random.sample(candidates, len(candidates)), key=self._load)

    def _load(self, replica: RunningReplica) -> int:
        horizon = time.monotonic() - MEMORY_SECONDS
        while self._chosen and self._chosen[0][0] < horizon:
            self._chosen.popleft()
        recent = [chosen for _, chosen in self._chosen].count(replica.replica_id)
        counted: int | None = self.replica_queue_len_cache.get(replica.replica_id)
        return recent + (counted or 0)
