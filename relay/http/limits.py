"""What a visitor may take of the relay: sizes, times, and lines in its log."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

from relay.observability.logging import get_logger

log = get_logger()


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """What a visitor may take of the relay. Times in seconds, sizes in bytes.

    ``line`` and ``field`` are the longest request line and header field,
    ``fields`` their number, ``whole_head`` all of them together. ``head`` is how long a
    request's head may take from its first byte, ``idle`` how long a connection is kept
    without a request. A body must bring ``body_rate`` bytes a second, measured over
    ``body_span`` and only while the relay would take more. ``stall`` is how long a
    visitor may read nothing of an answer, ``half_closed`` how long one who has ended
    his side is still answered. ``connections`` is how many one address may hold open
    (0: any number); trusted proxies are exempt.
    """

    line: int = 16_384
    field: int = 32_768
    fields: int = 128
    whole_head: int = 65_536
    head: float = 10.0
    idle: float = 75.0
    body_rate: int = 500
    body_span: float = 10.0
    stall: float = 60.0
    half_closed: float = 3.0
    connections: int = 0

    def server_options(self) -> dict[str, Any]:
        """Return the options of aiohttp's server for a proxy to stand behind it."""
        return {
            # Bodies pass as they are: a decoded one would not fit its headers.
            "auto_decompress": False,
            # A visitor who leaves ends the call to the site.
            "handler_cancellation": True,
            "max_line_size": self.line,
            "max_field_size": self.field,
            "max_headers": self.fields,
            "keepalive_timeout": self.idle,
        }


class Connections:
    """Counts the open connections of each address; trusted proxies are exempt."""

    def __init__(self, most: int, exempt: Callable[[str], bool]) -> None:
        self._most = most
        self._exempt = exempt
        self._open: Counter[str] = Counter()

    def admit(self, peer: str | None) -> bool:
        """Count a new connection; False if its address has enough of them."""
        if peer is None:
            return True
        self._open[peer] += 1
        if not self._most or self._open[peer] <= self._most or self._exempt(peer):
            return True
        tally.note("visitor.too_many_connections", peer)
        return False

    def dismiss(self, peer: str | None) -> None:
        """Count a connection that has ended."""
        if peer is None:
            return
        self._open[peer] -= 1
        if self._open[peer] <= 0:
            del self._open[peer]


class ReadingWatch:
    """Cuts a connection whose other end reads nothing for too long.

    Looks at what the transport still has to send while there is more than a little of
    it, or while the connection is to be closed.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        patience: float,
        on_cut: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._patience = patience
        self._on_cut = on_cut
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def start(self) -> None:
        """Look from now on, unless all is sent."""
        self._unsent = self._waiting()
        if self._unsent and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._patience, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _waiting(self) -> int:
        """Return how many bytes wait here and in the system (ioctl_tcp, SIOCOUTQ).

        The system takes new ones only once a third of its own megabytes are read.
        """
        waiting = self._transport.get_write_buffer_size()
        sock = self._transport.get_extra_info("socket")
        if waiting and sock is not None and sock.fileno() >= 0:
            sent = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
            waiting += int.from_bytes(sent, sys.byteorder)
        return waiting

    def _look(self) -> None:
        self._timer = None
        if self._waiting() < self._unsent:
            self.start()
        elif self._unsent:
            self._on_cut()
            self._transport.abort()


TALLIED: Final = 1000
"""Networks that are counted at one time; of more, the first are written earlier."""

TALLY_S: Final = 60.0

_NETWORK_BITS: Final = {4: 24, 6: 48}
"""A log has no visitor's address: so much of it is enough to block an abuser."""


class Tally:
    """Logs what strangers do wrong: one line a minute for each event and network.

    A visitor who is slow or refused is no error of the relay's, and one who comes
    often must not be able to fill its log.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        # When the line is due, and how many it counts.
        self._counts: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def note(self, event: str, address: str | None, **details: Any) -> None:
        """Count an event; write the lines whose minute is over."""
        log.debug(event, **details)
        now = self._monotonic()
        key = (event, _network(address))
        due, count = self._counts.get(key, (now + TALLY_S, 0))
        self._counts[key] = (due, count + 1)
        while self._counts:
            first = next(iter(self._counts))
            due, count = self._counts[first]
            if due > now and len(self._counts) <= TALLIED:
                break
            del self._counts[first]
            log.info(first[0], network=first[1], count=count, within_s=TALLY_S)


tally: Final = Tally()
"""The process's own."""


def _network(address: str | None) -> str:
    try:
        network = ip_network(address or "")
    except ValueError:
        return "unknown"
    return str(network.supernet(new_prefix=_NETWORK_BITS[network.version]))
