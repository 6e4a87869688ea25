"""Brings to the relay, in order, what waits in the spool."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Final

from relay.client.calls import Calls, NotTakenError
from relay.client.results import Status
from relay.client.spool import Spool, SpoolError

log = logging.getLogger("relay.client")

PATIENCE_S: Final = 5.0
"""How long the relay may take for one message here, where nobody waits."""

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
"""Waits double from one to the other: a restart of the relay is over within
seconds, and what is down for hours is asked twice a minute by each site."""


class Sender:
    """Sends from a thread that lives as long as something waits."""

    def __init__(self, spool: Spool, calls: Calls) -> None:
        self._spool = spool
        self._calls = calls
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def wake(self) -> None:
        """Let it send what waits, if it does not already."""
        with self._lock:
            if self._stopping.is_set():
                return
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(
                target=self._run, name="dub-relay-sender", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                # No more threads, or the interpreter ends: the next process sends.
                log.warning("dub-relay: what waits in the spool is sent later")
            else:
                self._thread = thread

    def stop(self) -> None:
        """End the thread; what waits stays on the disk for the next process."""
        self._stopping.set()
        thread = self._thread
        if thread is not None:
            thread.join(PATIENCE_S)

    def flush(self, limit: float) -> bool:
        """Send now, and go on for ``limit`` seconds; True if nothing waits any more."""
        end = time.monotonic() + limit
        wait = FIRST_WAIT_S / 10
        while not self._drain(max(0.1, min(PATIENCE_S, end - time.monotonic()))):
            if time.monotonic() + wait > end:
                return False
            time.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_S)
        return True

    def _run(self) -> None:
        wait = FIRST_WAIT_S
        while not self._stopping.is_set():
            if self._drain() and self._done():
                return
            # Not all sites at once, when the relay is back.
            self._stopping.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            wait = min(wait * 2, LONGEST_WAIT_S)

    def _done(self) -> bool:
        """Whether still nothing waits; who appends after that starts a new thread."""
        with self._lock:
            try:
                done = self._spool.is_empty()
            except SpoolError:
                return False
            if done:
                self._thread = None
            return done

    def _drain(self, patience: float = PATIENCE_S) -> bool:
        """Send until nothing waits; False where that was not possible."""
        try:
            with self._spool.sending() as mine:
                if not mine:
                    return self._spool.is_empty()
                for entry in self._spool.entries():
                    if self._stopping.is_set():
                        return False
                    result = self._calls.send(entry.message, patience)
                    self._spool.erase(entry)
                    _tell(entry.message.id, result.status, result.reason)
                return self._spool.is_empty()
        except NotTakenError as error:
            tell = log.error if error.mistake else log.warning
            tell("dub-relay: the spool waits: %s", error.reason)
        except SpoolError as error:
            log.error("dub-relay: the spool does not work: %s", error)
        return False


def _tell(message_id: str, status: Status, reason: str) -> None:
    if status is Status.REFUSED:
        log.error("dub-relay: %s was refused: %s", message_id, reason)
    else:
        log.info("dub-relay: %s was sent from the spool: %s", message_id, status)
