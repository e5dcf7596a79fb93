"""The queue for password checks, shared fairly between client addresses.

A check takes about 30 ms of a core, so a flood of wrong logins must occupy neither every core nor every
place in the queue. A few checks run at a time; the others wait, and addresses share the places. From a full
queue one login of the address with the most is refused, chosen at random: a flood cannot displace logins of
other addresses, and at its own address, such as a proxy's, a correct login has the same chance as any other.

User names are not considered: the time of a response must not show whether a name exists or has ever logged in.
"""

from __future__ import annotations

import ipaddress
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.clock import SystemClock
from mongars.core.errors import TooManyRequests
from mongars.core.fair_queue import FairQueue, QueueFull, Share

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mongars.core.clock import Clock

_RETRY_SECONDS = 1.0
_LONGEST_WAIT = 60.0
_IPV6_PREFIX = 64  # the prefix that one subscriber usually gets


class LoginQueue:
    """Limits password checks: at most `running` run at once, and at most `waiting` logins wait for their turn.

    When one more arrives, a login from the network with the most waiting logins is refused with `TooManyRequests`; a
    network is an IPv4 address or a /64 of IPv6 addresses. `choose` picks it: given the number of that network's
    waiting logins, it returns an index (0: the oldest), by default a random one. `clock` None: the system's clock.
    """

    def __init__(
        self,
        *,
        running: int,
        waiting: int = 128,
        choose: Callable[[int], int] = random.randrange,
        clock: Clock | None = None,
    ) -> None:
        self._now = (clock or SystemClock()).monotonic
        self._queue = FairQueue(lambda: running, most_waiting=waiting, choose=choose)

    @asynccontextmanager
    async def turn(self, address: str = "") -> AsyncIterator[None]:
        """A context manager that holds one of the `running` places for password checks; entering it waits for one.

        `address`: the client's IP address; empty if unknown, and all unknown ones count as one network. Raises
        `TooManyRequests` if the full queue refuses this login, or if no place is free for a minute.
        """
        share = Share(scope=network_of(address))
        try:
            await self._queue.acquire(share, self._now, seconds=_LONGEST_WAIT)
        except (QueueFull, TimeoutError) as exc:
            msg = "Too many logins at this moment. Try again in a second."
            raise TooManyRequests(msg, retry_after=_RETRY_SECONDS) from exc
        try:
            yield
        finally:
            self._queue.release(share.scope, self._now())


def network_of(address: str) -> str:
    """`address`, or the /64 network of an IPv6 address as text, since one subscriber usually has all addresses of it.

    An IPv4-mapped IPv6 address becomes the IPv4 address; text that is no IP address is returned unchanged.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:  # noqa: PLR2004
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed.packed, _IPV6_PREFIX), strict=False))
