"""A queue for password checks, shared fairly between addresses.

Checking a password takes about 30 ms of a core, so a flood of wrong logins must not use every core or delay
all other logins. A few passwords are checked at a time. The other logins wait in one queue per address, and the
queues are served round-robin. When the maximum number of logins is waiting, one of the longest queue, chosen at
random, is refused. So a flood cannot displace logins from other addresses, and a genuine login from the same
address, such as a proxy's, is refused no more often than the flood's own.

Usernames do not matter here: the response time must not reveal whether a name exists or has logged in before.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections import OrderedDict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import TooManyRequests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_RETRY_SECONDS = 1.0
_IPV6_PREFIX = 64  # the prefix that one subscriber usually gets

LoginWaiter = asyncio.Future[bool]


class LoginQueue:
    """At most `running` turns at once and `waiting` logins that wait for one."""

    def __init__(
        self, *, running: int, waiting: int = 128, choose: Callable[[int], int] = random.randrange
    ) -> None:
        self._free = running
        self._max_waiting = waiting
        self._choose = choose
        self._queues: OrderedDict[str, deque[LoginWaiter]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, address: str = "") -> AsyncIterator[None]:
        """Wait for a turn and hold it while the block runs. Raises `TooManyRequests` if this login was refused."""
        await self._take(network_of(address))
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, network: str) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn: LoginWaiter = asyncio.get_running_loop().create_future()
        self._queues.setdefault(network, deque()).append(turn)
        if sum(map(len, self._queues.values())) > self._max_waiting:
            self._push_out()
        try:
            granted = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._give_back()
            else:
                self._leave(network, turn)
            raise
        if not granted:
            msg = "Too many logins at this moment. Try again in a second."
            raise TooManyRequests(msg, retry_after=_RETRY_SECONDS)

    def _push_out(self) -> None:
        network, queue = max(self._queues.items(), key=lambda entry: len(entry[1]))
        turn = queue[self._choose(len(queue))]
        self._leave(network, turn)
        turn.set_result(False)

    def _leave(self, network: str, turn: LoginWaiter) -> None:
        queue = self._queues.get(network, deque())
        if turn in queue:
            queue.remove(turn)
        if not queue:
            self._queues.pop(network, None)

    def _give_back(self) -> None:
        while self._queues:
            network, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            self._queues.move_to_end(network)
            if not queue:
                del self._queues[network]
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1


def network_of(address: str) -> str:
    """The address itself, or the /64 network of an IPv6 address, since a subscriber has all addresses of one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:  # noqa: PLR2004
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed.packed, _IPV6_PREFIX), strict=False))
