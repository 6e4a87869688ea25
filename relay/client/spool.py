"""The local file of messages that the relay has not taken yet.

One message a line, appended with one fsync; what was sent is overwritten with
blanks in its place, and the file is cut to nothing once all of it is. Any
number of processes may append; one at a time sends. For POSIX systems, as the
relay is.

The file holds personal data (what the hook's body holds), so only its owner
can read it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.client.calls import Calls, Message, NotTakenError, Status

log = logging.getLogger("relay.client")

MAX_BYTES: Final = 64 * 1024 * 1024
"""More than a hundred thousand registrations."""


class SpoolError(Exception):
    """The file cannot be read or written; the text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message and where in the file it stands: an offset and a length in bytes."""

    message: Message
    place: int
    length: int


class Spool:
    """Messages in the order in which they came."""

    def __init__(self, path: Path) -> None:
        # A site may change its folder later.
        self.path = path.absolute()

    def append(self, message: Message) -> None:
        """Bring a message to the disk; raise SpoolError."""
        entry = {"id": message.id, "body": message.body.decode()}
        line = json.dumps(entry).encode() + b"\n"
        with self._open() as file, _locked(file):
            size = os.fstat(file).st_size
            if size + len(line) > MAX_BYTES:
                raise OSError(errno.EFBIG, "the spool is full")
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line  # after one that a crash cut off
            if os.pwrite(file, line, size) != len(line):
                os.ftruncate(file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
            if size == 0:
                self._sync_name()

    def is_empty(self) -> bool:
        """Whether nothing waits; raise SpoolError."""
        try:
            return self.path.stat().st_size == 0
        except FileNotFoundError:
            return True
        except OSError as error:
            raise SpoolError(f"{self.path}: {error.strerror}") from None

    def entries(self) -> Iterator[Entry]:
        """Return what waits, the oldest first, and what comes meanwhile.

        At the end the file is emptied. Raises SpoolError.
        """
        with self._open() as file:
            place = 0
            with open(file, "rb", closefd=False) as reader:
                while (line := reader.readline()).endswith(b"\n"):
                    if message := _read(line):
                        yield Entry(message, place, len(line))
                    place += len(line)
            with _locked(file):
                # With the lock held, a line without its end is none to come.
                rest = os.pread(file, MAX_BYTES, place)
                if b"\n" not in rest:
                    os.ftruncate(file, 0)

    def erase(self, entry: Entry) -> None:
        """Overwrite a message; raise SpoolError.

        Not synced: where that is lost with the power, it is sent again, which
        its webhook-id makes harmless.
        """
        with self._open() as file:
            os.pwrite(file, b" " * (entry.length - 1), entry.place)

    def check_writable(self) -> None:
        """Raise SpoolError if nothing could be written down when it matters."""
        with self._open():
            pass

    @contextmanager
    def sending(self) -> Iterator[bool]:
        """Be the one process that sends what is here; False if another is."""
        with self._open(".lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                mine = False
            else:
                mine = True
            try:
                yield mine
            finally:
                _unlock(file)

    @contextmanager
    def _open(self, suffix: str = "") -> Iterator[int]:
        path = f"{self.path}{suffix}"
        # A link that somebody laid in a shared folder must not lead elsewhere.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
            try:
                yield file
            finally:
                os.close(file)
        except OSError as error:
            raise SpoolError(f"{path}: {error.strerror or error}") from None

    def _sync_name(self) -> None:
        """Bring the file's own name to the disk, too."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _locked(file: int) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        _unlock(file)


def _unlock(file: int) -> None:
    # To close it would not do: a process that was forked meanwhile has it, too.
    fcntl.flock(file, fcntl.LOCK_UN)


def _read(line: bytes) -> Message | None:
    """Read a line; None for what was sent, and for what a crash cut off."""
    if not line.strip():
        return None
    try:
        entry = json.loads(line)
        return Message(str(entry["id"]), str(entry["body"]).encode())
    except (ValueError, TypeError, KeyError):
        log.error("dub-relay: %d bytes in the spool are no message", len(line))
        return None


# --- Brings to the relay, in order, what waits in the spool. ---

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
            report = log.error if error.mistake else log.warning
            report("dub-relay: the spool waits: %s", error.reason)
        except SpoolError as error:
            log.error("dub-relay: the spool does not work: %s", error)
        return False


def _tell(message_id: str, status: Status, reason: str) -> None:
    if status is Status.REFUSED:
        log.error("dub-relay: %s was refused: %s", message_id, reason)
    else:
        log.info("dub-relay: %s was sent from the spool: %s", message_id, status)
