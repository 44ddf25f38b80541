"""Slows down whoever tries keys: each address has so many wrong ones a minute.

Above: `gateway.py`. While an address is held back, the operator's own key (which a person may have chosen) is not even
compared for it, so guessing on is useless; random keys of 256 bits go on working, so that neighbours behind the same
address are not shut out.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

__all__ = ["GuessThrottle"]

_MOST_ADDRESSES = 20_000


class GuessThrottle:
    """Wrong keys by address.

    Args:
        per_minute: wrong keys that an address has free; they come back evenly. May be set again.
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # the least recent first

    def wait_seconds(self, address: str | None) -> float:
        """How long the address is held back; 0 = it is not."""
        network = _network(address)
        if network not in self._levels:
            return 0.0
        excess = self._level(network, self._clock()) + 1 - self.per_minute
        return max(0.0, excess * 60 / self.per_minute)

    def failed(self, address: str | None) -> None:
        """Note a wrong key."""
        network, now = _network(address), self._clock()
        self._levels[network] = (self._level(network, now) + 1, now)
        self._levels.move_to_end(network)
        if len(self._levels) > _MOST_ADDRESSES:
            self._levels.popitem(last=False)

    def _level(self, network: str, now: float) -> float:
        level, stamp = self._levels.get(network, (0.0, now))
        return max(0.0, level - (now - stamp) * self.per_minute / 60)


@lru_cache(maxsize=4096)
def _network(address: str | None) -> str:
    """Whoever has one IPv6 address usually has 2^64 of them."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return address or ""
    return str(ipaddress.ip_network((int(parsed), 64), strict=False)) if parsed.version == 6 else str(parsed)
