"""An SQLite file that nobody else may have open for a while."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from relay.outbox.contract import OutboxError
from relay.outbox.sqlite_file import connect_plain, unavailable

BUSY_MS: Final = 1_000
"""How long to wait for the file: whoever holds it now is no command that soon ends,
but a relay."""


class InUseError(OutboxError):
    """Another process has the file open."""


@contextlib.contextmanager
def alone(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file so that nobody else has it open, nor can until this ends.

    Its write-ahead log is in the file then. Raises InUseError, and
    OutboxUnavailableError for a file that is no database.
    """
    try:
        connection = connect_plain(path, BUSY_MS)
    except sqlite3.Error as error:
        raise unavailable(error) from error
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        # The write-ahead log is only left by who is alone with the file.
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        yield connection
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise InUseError(
                f"a relay still uses {path}: stop it first, so that no lead is "
                "left behind or sent twice"
            ) from error
        raise unavailable(error) from error
    except sqlite3.Error as error:
        raise unavailable(error) from error
    finally:
        connection.close()
