"""What systemd hands to a service, and what it wants to hear from it.

A listening socket that systemd keeps open (sd_listen_fds(3)) makes a restart without
one refused connection: what comes meanwhile waits in its queue for the next process.
The notices are those of sd_notify(3). Without systemd none of this does anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Final

FIRST: Final = 3
"""The first descriptor that is handed over: SD_LISTEN_FDS_START."""


class HandoverError(Exception):
    """What was handed over cannot be used; the message says why."""


def listening_socket() -> socket.socket | None:
    """Take the one listening socket that was handed over, if there is one.

    It is taken once: the variables are removed, so that no other program that this
    one starts takes them for its own.
    """
    count, pid = os.environ.get("LISTEN_FDS"), os.environ.get("LISTEN_PID")
    if pid != str(os.getpid()) or not count or count == "0":
        return None
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if count != "1":
        raise HandoverError(f"one socket is expected, {count} were handed over")
    try:
        found = socket.socket(fileno=FIRST)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise HandoverError(f"descriptor {FIRST} is no socket") from error
    if not listens or found.type != socket.SOCK_STREAM:
        raise HandoverError("the socket must be one that listens: ListenStream=")
    found.setblocking(False)
    os.set_inheritable(FIRST, False)
    return found


def notify(state: str) -> None:
    """Tell the service manager: READY=1, STOPPING=1, WATCHDOG=1."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract names
    with (
        # A manager that does not listen any more is no reason to stop.
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out,
    ):
        out.sendto(state.encode(), address)


async def watchdog() -> None:
    """Say that the event loop turns, twice in the time that WatchdogSec= allows."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not allowed.isdecimal() or allowed == "0":
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(int(allowed) / 2_000_000)
