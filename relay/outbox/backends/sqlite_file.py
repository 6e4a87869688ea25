"""Connections to one SQLite file, and what its errors mean.

Nothing outside sees sqlite3.Error: trouble with the database becomes
OutboxUnavailableError, trouble with one row UnstorableError.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from relay.outbox.contract import OutboxUnavailableError, UnstorableError
from relay.outbox.database import Row, for_sqlite, sqlite_transaction
from relay.outbox.migrations import migrate_sqlite, version

BUSY_MS: Final = 5_000
"""How long to wait for another process's write.

Theirs take milliseconds; a caller whose lead cannot be taken should hear so
before its own time limit, commonly 10 s and more.
"""

CHECKPOINT_PAGES: Final = 8_000
"""Pages (of 4 KiB) in the log before they are moved into the file.

Leads dirty index pages here and there; the longer the log, the more of them are
moved once for several leads. Measured against SQLite's own 1,000: 10-15 % more
leads a second at 64 callers, at the same p99, for 32 MB of disk.
"""

LOG_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""What the log is cut to after it had to grow: twice its usual size."""

CACHE_KIB: Final = 16_000
"""The writer's page cache: SQLite's 2 MB is less than the indexes' hot pages."""

MOVED: Final = 0x64756272
"""The application_id of a file whose leads were moved to another database
(relay/outbox/backends/transfer.py): a relay on it would send them a second time."""

_ROW_FAULTS: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    UnicodeEncodeError,
    OverflowError,
)

Connect = Callable[[Path], sqlite3.Connection]

_Inode = tuple[int, int] | None
"""Which file a name means: its device and number, None for none."""


class SqliteDatabase:
    """A connection as operations see it. No method suspends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *values: Any) -> list[Row]:
        """Return the rows of a statement."""
        cursor = self._connection.execute(for_sqlite(statement), _bound(values))
        return cursor.fetchall()

    async def execute(self, statement: str, *values: Any) -> int:
        """Run a statement; return how many rows it changed."""
        cursor = self._connection.execute(for_sqlite(statement), _bound(values))
        return cursor.rowcount

    async def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        """Run a statement once for each row of values."""
        if rows:
            self._connection.executemany(for_sqlite(statement), rows)


def _bound(values: Sequence[Any]) -> list[Any]:
    """Write lists as JSON, which SQLite takes apart (json_each)."""
    return [json.dumps(one) if type(one) is list else one for one in values]


class SqliteFile:
    """One connection, made anew after trouble or when the file was replaced.

    For one thread at a time.
    """

    def __init__(self, path: Path, connect: Connect) -> None:
        self._path = path
        self._file_name, self._log_name = os.fspath(path), f"{os.fspath(path)}-wal"
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[_Inode, _Inode] | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SqliteDatabase]:
        """Commit everything done inside, or nothing of it."""
        with self._translated():
            connection = self._live()
            with sqlite_transaction(connection):
                yield SqliteDatabase(connection)
            if self._was_replaced():
                self.close()
                raise OutboxUnavailableError(
                    "the database's file, or its log, was replaced or removed while "
                    "this was written: it is not in the file of that name"
                )

    @contextlib.contextmanager
    def reading(self) -> Iterator[SqliteDatabase]:
        """Yield the connection, for what changes nothing."""
        with self._translated():
            yield SqliteDatabase(self._live())

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn sqlite3's errors into the outbox's; drop the connection then."""
        try:
            yield
        except _ROW_FAULTS as error:
            raise UnstorableError(f"not storable: {type(error).__name__}") from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                self._shorten_log()
            self.close()
            raise unavailable(error) from error

    def _shorten_log(self) -> None:
        """Move the log into the file and cut it: it may be what has filled the disk.

        Nothing else would, for each write must grow it first.
        """
        # Readers in the way, or no room for that either: then the next one tries.
        with contextlib.suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            # It is given up, whatever it says to that.
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _live(self) -> sqlite3.Connection:
        # A connection goes on writing to a file that was deleted or replaced,
        # and all of that would be lost: so look, at the cost of one stat.
        if self._connection is not None and self._was_replaced():
            self.close()
        if self._connection is None:
            self._connection = self._connect(self._path)
            self._identity = self._identities()
        return self._connection

    def _was_replaced(self) -> bool:
        """Return whether the connection is to another file than the path names."""
        found = self._identities()
        if self._identity is None or found[0] != self._identity[0]:
            return True
        if self._identity[1] is None:
            # The log is made by the first write.
            self._identity = found
        return found[1] != self._identity[1]

    def _identities(self) -> tuple[_Inode, _Inode]:
        return _identity(self._file_name), _identity(self._log_name)


def make_file(path: Path) -> None:
    """Make an empty file, if there is none; raise OutboxUnavailableError.

    Only its owner may read it: it will hold personal data.
    """
    if not path.absolute().parent.is_dir():
        raise OutboxUnavailableError(
            "its folder does not exist; make it, or name another file"
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise OutboxUnavailableError(
            f"{error.strerror}; the relay must be able to write the file and its folder"
        ) from error


def connect_writer(path: Path, busy_ms: int = BUSY_MS) -> sqlite3.Connection:
    """Open the file for writing, and migrate it where needed.

    It must be there: a relay that made a new one in the middle of its life would
    hide that the old one is gone, say with a disk that was unmounted.
    """
    connection = connect_plain(path, busy_ms)
    try:
        _refuse_moved(connection)
        _use_write_ahead_log(connection, busy_ms)
        # FULL: the log is on the disk before a commit returns, power cut or not.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # What is erased or replaced is overwritten in the file, not only unlinked.
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT_BYTES}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        migrate_sqlite(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path, busy_ms: int = BUSY_MS) -> sqlite3.Connection:
    """Open a file that is there for reading alone."""
    connection = connect_plain(path, busy_ms)
    connection.execute("PRAGMA query_only = ON")
    return connection


def migrate_file(path: Path) -> tuple[int, int]:
    """Migrate a file that is there; return the versions of its schema before and after.

    Raises SchemaTooNewError or OutboxUnavailableError.
    """
    try:
        with contextlib.closing(connect_plain(path)) as connection:
            before = version(connection)
        with contextlib.closing(connect_writer(path)) as connection:
            return before, version(connection)
    except sqlite3.Error as error:
        raise unavailable(error) from error


def connect_plain(path: Path, busy_ms: int = BUSY_MS) -> sqlite3.Connection:
    """Open a file that is there, as it is."""
    return sqlite3.connect(
        # rw: the file must be there.
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=busy_ms / 1000,
        isolation_level=None,
        # Made in the thread that uses it, but closed from another at times.
        check_same_thread=False,
    )


def _refuse_moved(connection: sqlite3.Connection) -> None:
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    if mark == MOVED:
        raise OutboxUnavailableError(
            "its leads were moved to another database; configure that one"
        )


def _use_write_ahead_log(connection: sqlite3.Connection, busy_ms: int) -> None:
    """Turn WAL on, which the file then remembers.

    SQLite does not wait for other connections here, so this does.
    """
    give_up = time.monotonic() + busy_ms / 1000
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise OutboxUnavailableError(
                "SQLite cannot keep a write-ahead log there; use a local disk"
            )
        return


def _identity(name: str) -> _Inode:
    try:
        found = os.stat(name)  # noqa: PTH116 - at each commit: Path takes thrice as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def unavailable(error: sqlite3.Error) -> OutboxUnavailableError:
    """Return the outbox's error for one of SQLite's."""
    # SQLite's texts name tables and reasons, never what is stored.
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return OutboxUnavailableError(f"{error} ({name})")
