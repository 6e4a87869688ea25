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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.client.message import Message

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
        """Give what waits, the oldest first, and what comes meanwhile.

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
