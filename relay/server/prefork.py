"""Several relay processes on one port, watched by one parent."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Final

from relay.observability.logging import get_logger

log = get_logger()

RESTART_S: Final = 1.0
"""Pause before a killed worker is replaced, so that a crash at start is no loop
that eats a core."""


def supervise(run: Callable[[], int], count: int) -> int:
    """Keep ``count`` processes of run alive until SIGTERM or SIGINT.

    A worker that a signal killed is replaced. One that gave up by itself (a bad
    database, a port that is taken) would give up again: then all are ended and
    its exit code is given. 0 after a stop in which every worker ended well.
    """
    return _Workers(run, count).watch()


class _Workers:
    def __init__(self, run: Callable[[], int], count: int) -> None:
        # fork, before any thread or event loop: the settings need no copying.
        self._context = multiprocessing.get_context("fork")
        self._run = run
        self._stopping = False
        self._code = 0
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
        raise SystemExit(self._run())

    def _ended(self, code: int) -> None:
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
