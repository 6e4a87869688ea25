"""Gets erased bytes out of an SQLite file and its write-ahead log.

``secure_delete`` overwrites a row where it was, but SQLite may have moved the row
before, while a page was split, and leaves a copy in that page's free space (seen in
one of some hundred leads). So the file is searched, and rebuilt where that is needed.
"""

from __future__ import annotations

import contextlib
import mmap
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from relay.outbox.keeping import Scrubbed
from relay.outbox.sqlite_file import connect_writer, unavailable

SCRUB_S: Final = 30.0
"""How long to wait for readers that still need the write-ahead log."""

VACUUM_BYTES: Final = 256 * 1024 * 1024
"""The largest file that is rebuilt at once: that takes some two seconds, in which a
running relay's commits wait, and they give up after five."""

TOO_LARGE: Final = (
    "a copy is left in the file's free space, and the file is too large to be rebuilt "
    "beside a running relay: stop the relays, run `sqlite3 FILE VACUUM`"
)


def scrub(path: Path, traces: Sequence[bytes]) -> Scrubbed:
    """Do so, relays running or not; raise OutboxUnavailableError."""
    try:
        with contextlib.closing(connect_writer(path)) as connection:
            return _scrubbed(connection, path, traces)
    except sqlite3.Error as error:
        raise unavailable(error) from error


def _scrubbed(
    connection: sqlite3.Connection, path: Path, traces: Sequence[bytes]
) -> Scrubbed:
    done = _checkpoint(connection)
    if not done.clean or not _any_in(path, traces):
        return done
    # The indexes are where it happens most, and are quickly made anew.
    for index in ("leads_customer", "leads_request"):
        connection.execute(f"REINDEX {index}")
    done = _checkpoint(connection)
    if not done.clean or not _any_in(path, traces):
        return done
    if path.stat().st_size > VACUUM_BYTES:
        return Scrubbed(clean=False, reason=TOO_LARGE)
    connection.execute("VACUUM")
    return _checkpoint(connection)


def _checkpoint(connection: sqlite3.Connection) -> Scrubbed:
    """Move the log into the file and cut it to nothing."""
    give_up = time.monotonic() + SCRUB_S
    while True:
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return Scrubbed(clean=True)
        if time.monotonic() > give_up:
            reason = "a long reading keeps the write-ahead log; run it again"
            return Scrubbed(clean=False, reason=reason)
        time.sleep(0.1)


def _any_in(path: Path, traces: Sequence[bytes]) -> bool:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return any(content.find(trace) >= 0 for trace in traces)
