"""Copies of an SQLite database: one made while relays run, and the way back.

A copy is one snapshot, taken through SQLite's own backup API, and the counts of
leads and calls in it are compared with those of the snapshot. It knows when it
was made (the table ``backup``): what may have happened to its leads since decides
how they are treated when it is put back.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.core.leads import LeadStatus
from relay.outbox.backends.sqlite_file import connect_plain, connect_writer, unavailable
from relay.outbox.contract import OutboxError, OutboxUnavailableError
from relay.outbox.migrations import version
from relay.outbox.records import sql

PAGES: Final = 4_096
"""Pages copied between two words of progress: 16 MB, some tens of milliseconds."""

Progress = Callable[[int, int], None]
"""Called with how many pages of how many are copied."""

_MARK: Final = """
    DROP TABLE IF EXISTS backup;
    CREATE TABLE backup (
        id INTEGER PRIMARY KEY CHECK (id = 1), taken_at INTEGER NOT NULL
    ) STRICT;
"""

_DOUBT: Final = sql("UPDATE leads SET in_doubt = 1 WHERE status IN {open}")

# As after a crash: a lease that has run out is claimed by anyone.
_END_LEASES: Final = """
    UPDATE leads SET due_at = ?, token = NULL WHERE status = 'sending'
"""

# No move of a running relay's: what happened to these leads is not known here.
_SET_ASIDE: Final = sql(
    """
    UPDATE leads SET
        status = 'unconfirmed', due_at = NULL, token = NULL, in_doubt = 1,
        last_error = 'restored from an old backup: Dub may have it since then'
    WHERE status IN {open}
    """
)


class CopyError(OutboxError):
    """The copy cannot be made, or is not what it should be."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds, counted in it and checked.

    ``taken_at`` (epoch ms) is when its snapshot was; None: it does not say.
    ``set_aside``: its open leads were too old to be sent again unseen.
    ``kept`` is where the database went whose place was taken.
    """

    leads: Mapping[LeadStatus, int]
    attempts: int
    taken_at: int | None = None
    set_aside: bool = False
    kept: Path | None = None


def backup(source: Path, target: Path, now: int, progress: Progress) -> Copied:
    """Copy a database that may be in use to a file of its own, marked with the time.

    Writers do not wait for it. Raises CopyError or OutboxUnavailableError.
    """
    if target.exists():
        raise CopyError(f"{target} is there already: name another file")
    with _translated(), contextlib.closing(connect_plain(source)) as connection:
        return _copy(connection, target, now, progress)


def restore(
    source: Path,
    target: Path,
    now: int,
    *,
    force: bool,
    window_ms: int,
    progress: Progress,
) -> Copied:
    """Put a backup in a database's place; the leads in it go on.

    Every open lead is in doubt afterwards: Dub may have it since the backup was
    made. Dub's dedupe key keeps it from counting twice, for a while: open leads of
    a backup older than ``window_ms``, or of an unknown age, become UNCONFIRMED, and
    a person decides. Raises InUseError, CopyError, SchemaTooNewError or
    OutboxUnavailableError.
    """
    made = target.with_name(f"{target.name}.restoring")
    made.unlink(missing_ok=True)
    try:
        with _translated():
            copied = _prepare(source, made, now, window_ms, progress)
            return _put_in_place(made, target, now, copied, force=force)
    finally:
        made.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a finished file and its name to the disk."""
    for place, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY)):
        descriptor = os.open(place, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _copy(
    source: sqlite3.Connection, target: Path, at: int, progress: Progress
) -> Copied:
    # An open snapshot: without it the copy would begin anew at each commit.
    source.execute("BEGIN")
    _require_ours(source)
    found = Copied(_counts(source), _attempts(source), at)
    with _new_file(target) as made:
        source.backup(
            made, pages=PAGES, progress=lambda _, left, of: progress(of - left, of)
        )
        # One file, to be moved about and read from anywhere.
        made.execute("PRAGMA journal_mode = DELETE").fetchone()
        _verify(made, found)
        made.executescript(_MARK)
        made.execute("INSERT INTO backup VALUES (1, ?)", (at,))
    sync(target)
    return found


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Make a file for its owner only; none is left if its making breaks off."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise CopyError(f"{path}: {error.strerror}") from error
    try:
        with contextlib.closing(connect_plain(path)) as connection:
            yield connection
    except BaseException:
        path.unlink()
        raise


def _prepare(
    source: Path, made: Path, now: int, window_ms: int, progress: Progress
) -> Copied:
    """Make the database that will be, beside the place where it belongs."""
    with contextlib.closing(_read_only(source)) as connection:
        taken_at = _taken_at(connection)
        copied = _copy(connection, made, now, progress)
    old = taken_at is None or now - taken_at > window_ms
    with contextlib.closing(connect_writer(made)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DROP TABLE backup")
        if old:
            connection.execute(_SET_ASIDE)
        else:
            connection.execute(_DOUBT)
            connection.execute(_END_LEASES, (now,))
        connection.execute("COMMIT")
        leads = _counts(connection)
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    sync(made)
    moved = leads != copied.leads
    return Copied(leads, copied.attempts, taken_at, set_aside=old and moved)


def _put_in_place(
    made: Path, target: Path, now: int, copied: Copied, *, force: bool
) -> Copied:
    kept = None
    with contextlib.ExitStack() as stack:
        if target.exists() and target.stat().st_size:
            _claim_place(stack, target, force=force)
            kept = target.with_name(f"{target.name}.replaced-{now}")
            target.rename(kept)
        _give_to_owner(made, kept or target.parent)
        made.rename(target)
        sync(target)
    return Copied(
        copied.leads, copied.attempts, copied.taken_at, copied.set_aside, kept
    )


def _give_to_owner(made: Path, like: Path) -> None:
    """Let the relay's own user have what root has put back for it."""
    if os.geteuid() == 0:
        owner = like.stat()
        os.chown(made, owner.st_uid, owner.st_gid)


def _claim_place(stack: contextlib.ExitStack, target: Path, *, force: bool) -> None:
    """Keep relays away from the old database; refuse to push leads aside unasked."""
    try:
        connection = stack.enter_context(alone(target))
        leads = sum(_counts(connection).values()) if version(connection) else None
    except OutboxUnavailableError:
        if not force:
            raise
        return  # damaged: which may be why there is a backup to be put back
    if leads != 0 and not force:
        holds = "is no relay's database" if leads is None else f"holds {leads} leads"
        raise CopyError(f"{target} {holds}: --force puts the backup in its place")


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
    )


def _require_ours(connection: sqlite3.Connection) -> None:
    if version(connection) == 0:
        raise CopyError("the file holds no leads: it is no database of dub-relay's")


def _taken_at(connection: sqlite3.Connection) -> int | None:
    try:
        row = connection.execute("SELECT taken_at FROM backup").fetchone()
    except sqlite3.OperationalError:
        return None  # a copy made by other means
    return None if row is None else int(row[0])


def _verify(made: sqlite3.Connection, found: Copied) -> None:
    (said,) = made.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise CopyError(f"the copy is damaged: {said}")
    if (_counts(made), _attempts(made)) != (found.leads, found.attempts):
        raise CopyError("the copy does not hold what the database holds")


def _counts(connection: sqlite3.Connection) -> dict[LeadStatus, int]:
    rows = connection.execute("SELECT status, count(*) FROM leads GROUP BY status")
    return {LeadStatus(status): number for status, number in rows}


def _attempts(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("SELECT count(*) FROM attempts").fetchone()[0]
    return found


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise unavailable(error) from error
    except OSError as error:
        raise CopyError(f"{error.filename}: {error.strerror}") from error


# --- A file that nobody else may have open for a while. ---

ALONE_BUSY_MS: Final = 1_000
"""How long to wait for the file: what holds it now is no command that soon ends,
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
        connection = connect_plain(path, ALONE_BUSY_MS)
    except sqlite3.Error as error:
        raise unavailable(error) from error
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        # The write-ahead log is only left by a process that is alone with the file.
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
