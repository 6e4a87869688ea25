"""Who watches over processes: systemd over the relay, and a parent over its workers.

A listening socket that systemd keeps open (sd_listen_fds(3)) makes a restart without
one refused connection: what comes meanwhile waits in its queue for the next process.
The notices are those of sd_notify(3). Without systemd none of this does anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Final

from relay.observability.logging import get_logger

log = get_logger()

FIRST: Final = 3
"""The first descriptor that is handed over: SD_LISTEN_FDS_START."""

RESTART_S: Final = 1.0
"""Pause before a killed worker is replaced, so that a crash at start is no loop
that eats a core."""


ORPHAN_S: Final = 0.5
"""How soon a worker notices that its parent is gone, where the system cannot say."""


class HandoverError(Exception):
    """What was handed over cannot be used; the message says why."""


def listening_socket() -> socket.socket | None:
    """Return the one listening socket that was handed over, if there is one.

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
    """Notify the service manager: READY=1, STOPPING=1, WATCHDOG=1."""
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


def supervise(run: Callable[[], int], count: int) -> int:
    """Keep ``count`` processes of run alive until SIGTERM or SIGINT.

    A worker that a signal killed is replaced. One that gave up by itself (a bad
    database, a port that is taken) would give up again: then all are ended and
    its exit code is given. 0 after a stop in which every worker ended well.
    """
    return _Workers(run, count).watch()


def _end_with(parent: int) -> None:
    """Stop this worker when its parent is gone, which a signal may have killed.

    Nobody would watch over it any more, and a new parent's workers come beside it.
    """
    with contextlib.suppress(AttributeError, OSError):  # not on this system: look
        descriptor = os.pidfd_open(parent)
        if os.getppid() == parent:
            select.select([descriptor], [], [])
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    log.error("worker.orphaned")
    os.kill(os.getpid(), signal.SIGTERM)


class _Workers:
    def __init__(self, run: Callable[[], int], count: int) -> None:
        # fork, before any thread or event loop: the settings need no copying.
        self._context = multiprocessing.get_context("fork")
        self._run = run
        self._stopping = False
        self._code = 0
        self._pid = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._alive: dict[int, BaseProcess] = {}
        for _ in range(count):
            self._start()

    def watch(self) -> int:
        while self._alive:
            wait(list(self._alive), timeout=None)
            for sentinel, process in list(self._alive.items()):
                if not process.is_alive():
                    del self._alive[sentinel]
                    self._ended(process.exitcode or 0)
        return self._code

    def _start(self) -> None:
        process = self._context.Process(target=self._child)
        process.start()
        self._alive[process.sentinel] = process

    def _child(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=_end_with, args=(self._pid,), daemon=True).start()
        raise SystemExit(self._run())

    def _ended(self, code: int) -> None:
        if self._stopping and code == -signal.SIGTERM:
            return  # it was still starting, and had nothing under way
        if code < 0 and not self._stopping:
            log.error("worker.killed", signal=-code)
            time.sleep(RESTART_S)
            if not self._stopping:
                self._start()
        elif code != 0:
            self._code = self._code or abs(code)
            self._stop()

    def _on_signal(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for process in self._alive.values():
            if process.is_alive():
                process.terminate()
