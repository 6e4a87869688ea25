"""The outbox on SQLite: the contract, and what only a file can suffer."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from relay.core.leads import OPEN, RETRYABLE, LeadStatus
from relay.outbox import deliveries, insertion, personal_data
from relay.outbox import records as queries
from relay.outbox.backends import open_outbox, sqlite_native
from relay.outbox.backends.sqlite import SqliteOutbox, SqliteWriter
from relay.outbox.backends.sqlite_file import SqliteFile, connect_writer, make_file
from relay.outbox.contract import (
    Inserted,
    OutboxUnavailableError,
    Query,
    SchemaChangedError,
    SchemaTooNewError,
)
from relay.outbox.database import for_sqlite
from relay.outbox.migrations import migrations, statements
from relay.outbox.records import row_of
from tests.support.outbox_contract import OutboxContract
from tests.support.outbox_rig import Child, ids, new_lead, put_all, put_together


class TestSqliteOutbox(OutboxContract):
    @pytest.fixture
    def new_url(self, tmp_path: Path) -> Callable[[], str]:
        files = (tmp_path / f"relay{n}.db" for n in range(10**6))
        return lambda: f"sqlite:///{next(files)}"

    @pytest.fixture
    def outage(self, url: str) -> Callable[[], AbstractContextManager[None]]:
        path = Path(url.removeprefix("sqlite:///"))

        @contextlib.contextmanager
        def file_gone() -> Iterator[None]:
            aside = path.rename(path.with_suffix(".aside"))
            yield
            aside.rename(path)

        return file_gone


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "relay.db"


@contextlib.asynccontextmanager
async def opened(path: Path, busy_ms: int = 5000) -> AsyncIterator[SqliteOutbox]:
    outbox = SqliteOutbox(path, busy_ms=busy_ms)
    await outbox.open()
    try:
        yield outbox
    finally:
        await outbox.close()


def raw(path: Path) -> contextlib.closing[sqlite3.Connection]:
    """A connection beside the relay's."""
    return contextlib.closing(sqlite3.connect(path, isolation_level=None))


def restore(backup: Path, path: Path) -> None:
    """Put a backup in a database's place, as SQLite wants it: without its log."""
    for name in ("relay.db-wal", "relay.db-shm"):
        path.with_name(name).unlink()
    backup.replace(path)


def move_aside(path: Path) -> None:
    path.rename(path.with_name("aside"))


def remove(path: Path) -> None:
    path.unlink()


# --- Opening. ---


async def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    async with opened(path) as outbox:
        await outbox.put(new_lead())

        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {0o600}


async def test_commits_reach_the_disk_and_the_log_is_kept_short(path: Path) -> None:
    async with opened(path):
        with raw(path) as connection:
            mode = connection.execute("PRAGMA journal_mode").fetchone()

        assert mode == ("wal",)
    # The last one to go has moved the log into the file.
    assert [file.name for file in path.parent.iterdir()] == ["relay.db"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.parent.rmdir(), "folder does not exist"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.write_bytes(b"something else" * 100), "not a database"),
    ],
)
async def test_what_cannot_be_opened_is_named_with_a_reason(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "data" / "relay.db"
    path.parent.mkdir()
    make(path)

    with pytest.raises(OutboxUnavailableError, match=says) as caught:
        await SqliteOutbox(path).open()

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_database_of_a_newer_relay_is_left_alone(path: Path) -> None:
    with raw(path) as connection:
        connection.execute("PRAGMA user_version = 9999")

    with pytest.raises(SchemaTooNewError, match="9999"):
        await SqliteOutbox(path).open()

    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (
            0,
        )


async def test_a_database_migrated_under_a_running_relay_is_left_alone(
    path: Path,
) -> None:
    async with opened(path) as outbox:
        move_aside(path)
        with raw(path) as connection:
            connection.execute("PRAGMA user_version = 9999")

        with pytest.raises(SchemaTooNewError):
            await outbox.put(new_lead())


async def test_a_database_of_another_text_of_a_migration_is_refused_at_once(
    path: Path,
) -> None:
    async with opened(path):
        pass
    with raw(path) as connection:
        connection.execute("UPDATE schema_history SET checksum = 'another'")
        connection.commit()

    with pytest.raises(SchemaChangedError, match="made by another version"):
        await SqliteOutbox(path).open()


def test_migrations_are_numbered_without_a_gap() -> None:
    steps = migrations("sqlite")

    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    for step in steps:
        assert "".join(statements(step.sql)).strip() == step.sql.strip()


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///relay.db", "relay.db"), ("sqlite:////var/lib/r.db", "/var/lib/r.db")],
)
def test_a_url_names_the_file(url: str, path: str) -> None:
    outbox = open_outbox(url)

    assert isinstance(outbox, SqliteOutbox)
    assert outbox.path == Path(path)


@pytest.mark.parametrize(
    "url", ["", "relay.db", "sqlite://", "sqlite:///", "mysql://me:hunter2@db/relay"]
)
def test_a_url_of_no_known_kind_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///") as caught:
        open_outbox(url)

    assert "hunter2" not in str(caught.value)


# --- Trouble. ---


async def test_a_lock_held_for_too_long_is_an_outage_that_passes(path: Path) -> None:
    async with opened(path, busy_ms=20) as outbox:
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(OutboxUnavailableError, match="locked"):
                await outbox.put(new_lead())
            # Readers are not kept out.
            assert await ids(outbox) == []

        assert (await outbox.put(new_lead())).outcome is Inserted.NEW


@pytest.mark.process
async def test_a_full_disk_takes_nothing_and_goes_on_when_there_is_room(
    path: Path,
) -> None:
    # A limit on the size of files is met as a full disk is: a write comes short.
    body = """
import resource
from relay.outbox.contract import OutboxUnavailableError

taken, refused = [], []

async def fill(names):
    for name in names:
        try:
            taken.append((await outbox.put(new_lead(name))).lead_id)
        except OutboxUnavailableError:
            refused.append("lead_" + name)

async def stored():
    counted = [lead for lead in taken + refused if await outbox.get(lead)]
    assert counted == taken, (len(counted), len(taken))

await fill(["before"])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
await asyncio.gather(*(fill(f"{n}-{m}" for m in range(40)) for n in range(8)))
assert len(taken) > 10 and len(refused) > 10, (len(taken), len(refused))
await stored()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
refused.clear()
await fill(f"after-{n}" for n in range(20))
assert not refused
await stored()
print(*taken)
"""
    taken = await Child(f"sqlite:///{path}", body).run()

    async with opened(path) as outbox:
        assert set(await ids(outbox)) == set(taken)
    with raw(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_file_that_was_replaced_is_not_written_to_any_more(path: Path) -> None:
    async with opened(path.with_name("backup.db")) as backup:
        await put_all(backup, [new_lead(), new_lead()])
    async with opened(path) as outbox:
        await put_together(outbox, [new_lead() for _ in range(5)])
        restore(path.with_name("backup.db"), path)

        result = await outbox.put(new_lead())

        there = await ids(outbox)
    assert len(there) == 3
    assert there[0] == result.lead_id


@pytest.mark.parametrize("was_read", [False, True])
async def test_a_log_that_was_removed_takes_nothing_along_that_was_taken(
    path: Path, was_read: bool
) -> None:
    async with opened(path) as outbox:
        taken = await put_together(outbox, [new_lead() for _ in range(5)])
        if was_read:  # by a connection that stays open, and keeps the index of the log
            assert len(await ids(outbox)) == len(taken)
        path.with_name(f"{path.name}-wal").unlink()

        for _ in range(10):
            # An outage, perhaps; it must pass.
            with contextlib.suppress(OutboxUnavailableError):
                taken.append(await outbox.put(new_lead()))
        assert len(taken) > 5

    async with opened(path) as outbox:
        assert set(await ids(outbox)) == {one.lead_id for one in taken}
    with raw(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_deleted_file_is_an_outage_and_not_silently_made_anew(
    path: Path,
) -> None:
    async with opened(path) as outbox:
        remove(path)

        with pytest.raises(OutboxUnavailableError):
            await outbox.put(new_lead())
        with pytest.raises(OutboxUnavailableError):
            await outbox.counts()

    with pytest.raises(sqlite3.OperationalError):
        sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)


async def test_a_writer_that_stops_finishes_what_waits_to_be_handed_over(
    path: Path,
) -> None:
    make_file(path)
    writer = SqliteWriter(SqliteFile(path, connect_writer), lambda _: None)
    made = new_lead()
    answer = writer.submit(insertion.put, (made, row_of(made)))

    await writer.stop()

    assert (await answer).lead_id == made.lead.id
    with pytest.raises(OutboxUnavailableError):
        writer.submit(insertion.put, (made, row_of(made)))


# --- Speed that must not depend on how many leads there are. ---


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(sqlite_native.DUE, id="claim"),
        pytest.param(sqlite_native.NEWEST_DUE, id="newest"),
        pytest.param(deliveries.PARK, id="park"),
        pytest.param(deliveries.UNPARK, id="unpark"),
        pytest.param(deliveries.RESCHEDULE, id="reschedule"),
        pytest.param(personal_data.OVERDUE, id="erase"),
    ],
)
async def test_delivery_walks_an_index_and_sorts_nothing(
    path: Path, statement: str
) -> None:
    async with opened(path):
        with raw(path) as connection:
            statement = for_sqlite(statement)
            values = [1] * len(set(re.findall(r"\?\d", statement)))
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            steps = [str(step[3]) for step in plan]

    assert steps
    for step in steps:
        assert "SCAN" not in step
        assert "TEMP B-TREE" not in step


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        pytest.param(deliveries.UNDER_WAY, ["[]"], id="settle"),
        pytest.param(deliveries.CONFIRM, [1, "[]", False, *[None] * 6], id="confirm"),
        pytest.param(insertion.HELD, ["[]"], id="release"),
    ],
)
async def test_leads_are_found_by_their_ids_and_not_by_their_state(
    path: Path, statement: str, values: list[Any]
) -> None:
    async with opened(path):
        with raw(path) as connection:
            explain = f"EXPLAIN QUERY PLAN {for_sqlite(statement)}"
            steps = [str(step[3]) for step in connection.execute(explain, values)]

    # SQLite's index of the column id, which is UNIQUE.
    assert steps[0].startswith("SEARCH leads USING INDEX sqlite_autoindex_leads_1")


def test_the_states_in_statements_are_those_of_the_one_table() -> None:
    assert queries.sql("{open}") == "('queued', 'sending', 'waiting', 'parked')"
    assert {LeadStatus(name) for name in _names("{open}")} == OPEN
    assert {LeadStatus(name) for name in _names("{resendable}")} == RETRYABLE
    assert {LeadStatus(name) for name in _names("{confirmable}")} == OPEN | {
        LeadStatus.DELIVERED,
        LeadStatus.UNCONFIRMED,
    }


def _names(part: str) -> list[str]:
    return [name.strip("'") for name in queries.sql(part).strip("()").split(", ")]


async def test_looking_goes_on_while_nothing_can_be_written(path: Path) -> None:
    async with opened(path, busy_ms=50) as outbox:
        await put_together(outbox, [new_lead() for _ in range(1_200)])
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await outbox.counts() == {LeadStatus.QUEUED: 1_200}
            assert await ids(outbox, Query(click="NobodysClick0001")) == []
