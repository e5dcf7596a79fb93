"""A bounded queue for places (such as the slots of an engine) that accounts share by weight.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) by the time that places were held, as the length of an answer
is not known beforehand (compare the counters of Sheng et al., "Fairness in Serving Large Language Models", 2024).
Each account has a service: the seconds for which it held places, the running ones included, divided by its
weight. The next place is given to the waiting account with the least service; within an account, further parts of
requests that have begun come first, then it is first come, first served. The service of an account that begins to
wait is raised to the virtual time (the highest service at which a place was given): unused time is no credit.

A place is held until an answer ends. So that a second account need not always wait for that, an account may not
take the last place if another one had a request here in the last `RESERVE_SECONDS`. With a soft capacity, nothing
is reserved: while one account holds all places, one place more is given to another account.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_WEIGHT = 0.01
MOST_WEIGHT = 100.0
LEAST_CHARGE = 0.01
"""Seconds of service that each place costs at least."""
RESERVE_SECONDS = 60.0
"""How long after a request of one account no other account is given all places, in seconds."""
MOST_REMEMBERED = 1024
"""How many accounts without a request have their service remembered while others wait or hold places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The account (`scope`) and weight of a request in a fair queue.

    While accounts wait, one of weight 2 holds places for twice the time of one of weight 1. All requests without an
    account (None) count as one account.
    """

    scope: str | None = None
    weight: float = 1.0


EVERYBODY = Share()


class QueueFull(Exception):
    """A full `FairQueue` refused the request: on arrival, or later in favour of an account with fewer requests."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A request, or further part of one, that waits for a place in a `FairQueue`.

    The future `granted` is completed when it gets one. `bounded`: whether it is a request that has not begun, which is
    in the list `queued` of its account and not in `further`.
    """

    granted: asyncio.Future[None]
    bounded: bool


@dataclass(slots=True, eq=False)
class _ScopeUse:
    """The state of one account in a `FairQueue`, while it holds a place or waits for one."""

    scope: str | None
    weight: float
    service: float
    """Seconds for which the account held places until `counted_at`, divided by its weight."""
    counted_at: float
    held: int = 0
    further: deque[_Waiter] = field(default_factory=deque)
    """Waiting parts of requests that hold a place already or held one; not subject to the length limit."""
    queued: deque[_Waiter] = field(default_factory=deque)
    """Waiting requests that have not begun; only these form the length of the queue and can be displaced."""

    @property
    def waiting(self) -> int:
        """The number of this account's requests, and further parts of requests, that wait for a place."""
        return len(self.further) + len(self.queued)

    def count(self, now: float) -> float:
        """Update `service` (seconds for which this account held places, divided by its weight) to `now`, and return it.

        `now` is in seconds on the queue's monotonic clock.
        """
        if self.held:
            self.service += self.held * max(0.0, now - self.counted_at) / self.weight
        self.counted_at = now
        return self.service


def newest(count: int) -> int:
    """The index of the newest of `count` requests that are sorted from oldest to newest: `count` - 1.

    The default `choose` of `FairQueue`.
    """
    return count - 1


class FairQueue:
    """A bounded queue in which requests wait for places, such as the slots of an engine.

    Accounts share the places by weight. At most `capacity()` places, which may be infinity, are held at a time; with
    `soft`, at most one more. Without `soft`, an account gets all places (of two or more) only if no other account
    holds or waits for a place, or did in the last 60 seconds.
    """

    def __init__(
        self,
        capacity: Callable[[], float],
        *,
        most_waiting: int,
        soft: bool = False,
        choose: Callable[[int], int] = newest,
    ) -> None:
        """`capacity`: returns the current number of places. `most_waiting`: how many requests may wait.

        `soft`: while one account holds all places, another one is given one place more than `capacity()`, if that is
        above 1.

        `choose`: given the number of waiting requests of an account, returns the index (0: the oldest) of the one that
        is removed to make room in a full queue.
        """
        self._capacity = capacity
        self._most_waiting = most_waiting
        self._soft = soft
        self._choose = choose
        self._accounts: dict[str | None, _ScopeUse] = {}
        self._left: OrderedDict[str | None, float] = OrderedDict()
        """The service of accounts that left while others had requests; the latest last."""
        self._virtual_time = 0.0
        self._latest: tuple[str | None, float] = (None, -math.inf)
        """The account that last made a request or released a place, and when."""
        self._other_at = -math.inf
        """When an account other than the latest one last made a request or released a place."""
        self._holders = 0
        """The number of accounts that hold places."""
        self._bounded = 0
        self.active = 0
        """The number of places held."""
        self.waiting = 0
        """The number of requests that wait for a place."""

    @property
    def free(self) -> float:
        """The number of places that nobody holds; negative if `capacity()` has shrunk below the places held."""
        return self._capacity() - self.active

    def ahead(self, share: Share) -> float:
        """Estimate how many times a place must be given to a waiting request until a new request of `share` has one.

        The time at which the new request itself gets one is included. 0 for an account without any request in the
        queue, if a place is free for it.
        """
        own = self._accounts.get(share.scope)
        if own is None and self._may_take(_ScopeUse(share.scope, share.weight, 0.0, 0.0), 0.0):
            return 0.0
        rounds = 1 if own is None else own.waiting + 1
        others = (a for a in self._accounts.values() if a is not own)
        return rounds + sum(min(a.waiting, rounds * a.weight / share.weight) for a in others)

    async def acquire(
        self, share: Share, now: Callable[[], float], *, seconds: float, bounded: bool = True
    ) -> None:
        """Wait up to `seconds` for a place; give it back with `release`.

        `share`: the account and weight of the request. `now`: returns the time in seconds on a monotonic clock, the
        same one at every call. `bounded`: False for a further part of a request that holds a place already or held one;
        it waits even if the queue is full.

        Raises:
            QueueFull: no place is free and the queue is full, or the request was removed in favour of another account.
            TimeoutError: no place became free within `seconds`.
        """
        at = now()
        account = self._enter(share, at)
        if not self.waiting and self._may_take(account, at):
            self._grant(account, at)
            return
        waiter = _Waiter(asyncio.get_running_loop().create_future(), bounded)
        (account.queued if bounded else account.further).append(waiter)
        self._count(waiter, 1)
        try:
            self.wake(at)
            if bounded and self._bounded > self._most_waiting and not waiter.granted.done():
                self._displace(account, at)
            async with asyncio.timeout(seconds):
                await waiter.granted
        except BaseException:
            self._give_up(account, waiter, now())
            raise

    def release(self, scope: str | None, now: float) -> None:
        """Give back a place that a request of the account `scope` held; the next waiting request may get it.

        `now` is the time in seconds on the clock given to `acquire`.
        """
        account = self._accounts[scope]
        account.count(now)
        account.held -= 1
        self._holders -= account.held == 0
        self.active -= 1
        self._seen(scope, now)
        self._forget_if_idle(account)
        self.wake(now)

    def hold_extra(self) -> bool:
        """Hold one more place, which counts for no account; give it back with `release_extra`.

        Returns False, and holds none, if no place is free or a request waits.
        """
        found = not self.waiting and self.free >= 1
        self.active += found
        return found

    def release_extra(self, now: float) -> None:
        """Give back a place that `hold_extra` held; the next waiting request may get it.

        `now` is the time in seconds on the clock given to `acquire`.
        """
        self.active -= 1
        self.wake(now)

    def wake(self, now: float) -> None:
        """Give free places to waiting requests; call it when `capacity()` has grown.

        `now` is the time in seconds on the clock given to `acquire`.
        """
        while self.waiting:
            capacity = self._capacity()
            if self.active + 1 > capacity and not self._exceeds(capacity):
                return
            waiting = (a for a in self._accounts.values() if a.queued or a.further)
            ready = [a for a in waiting if self._may_take(a, now, capacity)]
            if not ready:
                return
            account = min(ready, key=lambda a: (a.count(now), a.held / a.weight))
            waiter = (account.further or account.queued)[0]
            self._remove(account, waiter)
            if waiter.granted.done():
                continue  # cancelled, but its task has not run since
            self._grant(account, now)  # here, so that no new request takes the place first
            waiter.granted.set_result(None)

    def _enter(self, share: Share, now: float) -> _ScopeUse:
        self._seen(share.scope, now)
        account = self._accounts.get(share.scope)
        if account is None:
            if not self._accounts:  # no account has a request, so earlier services do not matter
                self._left.clear()
                self._virtual_time = 0.0
            before = self._left.pop(share.scope, 0.0)
            account = _ScopeUse(share.scope, share.weight, before, now)
            self._accounts[share.scope] = account
        account.count(now)
        account.weight = share.weight
        if not account.waiting:
            account.service = max(account.service, self._virtual_time)
        return account

    def _seen(self, scope: str | None, now: float) -> None:
        if scope != self._latest[0]:
            self._other_at = self._latest[1]
        self._latest = (scope, now)

    def _may_take(self, account: _ScopeUse, now: float, capacity: float | None = None) -> bool:
        capacity = self._capacity() if capacity is None else capacity
        if capacity == math.inf:
            return True
        free = self.active + 1 <= capacity
        if self._soft:
            return free or (account.held == 0 and self._exceeds(capacity))
        reserved = 1 if capacity > 1 and self._others_lately(account, now) else 0
        return free and account.held < capacity - reserved

    def _exceeds(self, capacity: float) -> bool:
        return self._soft and capacity > 1 and self._holders == 1

    def _others_lately(self, account: _ScopeUse, now: float) -> bool:
        if len(self._accounts) > 1:
            return True
        scope, at = self._latest
        other_at = self._other_at if scope == account.scope else at
        return now - other_at <= RESERVE_SECONDS

    def _grant(self, account: _ScopeUse, now: float) -> None:
        self._virtual_time = max(self._virtual_time, account.count(now))
        account.service += LEAST_CHARGE / account.weight
        self._holders += account.held == 0
        account.held += 1
        self.active += 1

    def _remove(self, account: _ScopeUse, waiter: _Waiter) -> None:
        (account.queued if waiter.bounded else account.further).remove(waiter)
        self._count(waiter, -1)

    def _count(self, waiter: _Waiter, change: int) -> None:
        self.waiting += change
        self._bounded += change * waiter.bounded

    def _displace(self, newcomer: _ScopeUse, now: float) -> None:
        """Remove one waiting request, because the queue is full; its call of `acquire` raises `QueueFull`.

        It is one of the account with the most waiting requests for its weight; on a tie, of the account with the most
        service (seconds for which it held places, divided by its weight), and if that is equal, too, of `newcomer`,
        the account whose request has just arrived. The queue's function `choose` picks it among the waiting requests
        of that account.
        """

        def waiting(account: _ScopeUse) -> tuple[float, float]:
            return len(account.queued) / account.weight, account.count(now)

        rivals = (a for a in self._accounts.values() if a is not newcomer)
        largest = max(rivals, key=waiting, default=newcomer)
        victim = largest if waiting(largest) > waiting(newcomer) else newcomer
        waiters = [waiter for waiter in victim.queued if not waiter.granted.done()]
        if waiters:  # otherwise all were cancelled and are about to be removed
            waiter = waiters[self._choose(len(waiters))]
            self._remove(victim, waiter)
            waiter.granted.set_exception(QueueFull())

    def _give_up(self, account: _ScopeUse, waiter: _Waiter, now: float) -> None:
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self.release(account.scope, now)  # the place was given while the wait was ending
            return
        if waiter in account.queued or waiter in account.further:
            self._remove(account, waiter)
        self._forget_if_idle(account)

    def _forget_if_idle(self, account: _ScopeUse) -> None:
        if account.held or account.waiting or self._accounts.get(account.scope) is not account:
            return
        del self._accounts[account.scope]
        self._left[account.scope] = account.service
        if len(self._left) > MOST_REMEMBERED:
            self._left.popitem(last=False)
