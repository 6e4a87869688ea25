"""How often one visitor may call: a token bucket for each address."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import ip_address, ip_network
from typing import Final

MAX_BUCKETS: Final = 10_000
"""Addresses remembered; some 3 MB. Who was away longest is forgotten first, and
after a minute without calls a bucket is full again anyway."""

SITE_PREFIX: Final = 64
"""Bits of an IPv6 address that name one customer's network (RFC 6177): the
rest is theirs to choose from."""


class VisitorRate:
    """Lets each address call so many times a minute, all at once if it likes."""

    def __init__(self, per_minute: int, *, most: int = MAX_BUCKETS) -> None:
        self._burst = float(per_minute)
        self._per_second = per_minute / 60
        self._most = most
        # How many calls were left, and when that was, in seconds.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str, now: float) -> float:
        """Count a call; 0 if it may pass, else the seconds until one may.

        ``now`` is a monotonic time in seconds. A call that may not pass costs
        nothing.
        """
        key = _customer(address)
        left, at = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._per_second)
        passes = left >= 1
        self._buckets[key] = (left - passes, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0.0 if passes else (1 - left) / self._per_second


def _customer(address: str) -> str:
    """Give the part of an address that one customer cannot change."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ip_network(f"{address}/{SITE_PREFIX}", strict=False))
