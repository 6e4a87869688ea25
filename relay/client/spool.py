"""The local file of messages that the relay has not taken yet.

An SQLite file, because that is a durable, ordered, bounded append for several
processes, and taking away from the front, without a line of our own. It is
opened for each use: a connection must not pass a fork, and this is the way of
bad days only.

It holds personal data (what the hook's body holds): only its owner can read
it, and what is taken out is overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.client.message import Message

if TYPE_CHECKING:
    import sqlite3

MAX_BYTES: Final = 64 * 1024 * 1024
"""More than a hundred thousand registrations."""

_PAGE: Final = 4096

_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
"""A link that somebody laid in a shared folder must not lead elsewhere."""

BUSY_S: Final = 1.0
"""How long another process may keep the file; each append is one write to disk."""

_OPENING: Final = f"""
PRAGMA page_size = {_PAGE};
PRAGMA max_page_count = {MAX_BYTES // _PAGE};
PRAGMA synchronous = EXTRA;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS spool (
  place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL
);
"""
# synchronous EXTRA: an append is on the disk when it returns, also where the
# power goes. AUTOINCREMENT: the place of what was taken out is never used again.


class SpoolError(Exception):
    """The file cannot be read or written; the text says why."""


class Spool:
    """Messages in the order in which they came."""

    def __init__(self, path: Path) -> None:
        # A site may change its folder later.
        self.path = path.absolute()

    def append(self, message: Message) -> None:
        """Write a message down, once for its id; raise SpoolError."""
        with self._open() as connection, connection:
            connection.execute(
                "INSERT OR IGNORE INTO spool (id, body) VALUES (?, ?)",
                (message.id, message.body),
            )

    def first(self) -> Message | None:
        """Give the oldest message; raise SpoolError."""
        if not self.path.exists():
            return None
        with self._open() as connection:
            query = "SELECT id, body FROM spool ORDER BY place LIMIT 1"
            row = connection.execute(query).fetchone()
        return None if row is None else Message(row[0], row[1])

    def remove(self, message: Message) -> None:
        """Take a message out; raise SpoolError."""
        with self._open() as connection, connection:
            connection.execute("DELETE FROM spool WHERE id = ?", (message.id,))

    def check_writable(self) -> None:
        """Raise SpoolError if nothing could be written down when it matters."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()

    @contextmanager
    def sending(self) -> Iterator[bool]:
        """Be the one process that sends what is here; False if another is.

        The lock is SQLite's on a second file: it works wherever the first does,
        and ends with the process that holds it.
        """
        import sqlite3  # noqa: PLC0415 - see _open

        with self._open(".lock", busy=0.0) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                yield False
            else:
                yield True
                connection.rollback()

    @contextmanager
    def _open(
        self, suffix: str = "", busy: float = BUSY_S
    ) -> Iterator[sqlite3.Connection]:
        import sqlite3  # noqa: PLC0415 - most processes never spool anything

        path = f"{self.path}{suffix}"
        try:
            # SQLite's own files beside it take over its mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600))
            with closing(sqlite3.connect(path, timeout=busy)) as connection:
                if not suffix:
                    connection.executescript(_OPENING)
                yield connection
        except OSError as error:
            raise SpoolError(f"{path}: {error.strerror or error}") from None
        except sqlite3.Error as error:
            raise SpoolError(f"{path}: {error}") from None
