"""Which replica gets a request: the one that knows the conversation, unless it is busy.

A conversation (`x-session-id`) hashes to a place on a ring of replicas (consistent hashing with
virtual nodes, Karger et al. 1997), so its prompt is found in that replica's cache, and few
conversations move when replicas come and go. Loads are bounded (Mirrokni et al. 2018): a replica
whose slots are all taken hands a conversation to the less loaded of its successors. Requests
without a conversation go to the less loaded of two random replicas.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

if TYPE_CHECKING:
    from ray.serve._private.request_router.common import PendingRequest
    from ray.serve._private.request_router.replica_wrapper import RunningReplica


class SessionRouter(ConsistentHashRouter):  # type: ignore[misc] # Ray ships no types
    """Session affinity with bounded load; `busy_at` requests on a replica are its bound."""

    _busy_at = 0

    def initialize_state(self, busy_at: int, **kwargs: int) -> None:
        """Take the bound; the rest is the base's."""
        super().initialize_state(**kwargs)
        self._busy_at = busy_at

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of candidates; of each rank the least loaded replica that accepts is taken."""
        ranks: list[list[RunningReplica]] = await super().choose_replicas(
            candidate_replicas, pending_request
        )
        if pending_request is None or len(candidate_replicas) == 1:
            return ranks
        if not pending_request.metadata.session_id:
            return [random.sample(candidate_replicas, 2), candidate_replicas]
        first = ranks[0][0] if ranks else None
        load = first and self.replica_queue_len_cache.get(first.replica_id)
        if load is not None and load >= self._busy_at:
            return [[replica for rank in ranks for replica in rank], candidate_replicas]
        return [*ranks, candidate_replicas]
