"""`dub-relay migrate`, and the move of all leads from SQLite to PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from relay.core.leads import LeadStatus
from relay.outbox.backends import open_outbox
from relay.outbox.contract import (
    Circuit,
    ImportedLead,
    Inserted,
    Outbox,
    OutboxUnavailableError,
    Query,
    Settlement,
)
from relay.outbox.migrations import migrations
from tests.support.harness import RelayProcess
from tests.support.outbox_rig import (
    LEASE,
    NOW,
    attempt,
    claim_one,
    entry,
    lead,
    new_lead,
    put_all,
    signup,
)
from tests.support.postgres_server import PostgresServer

NEWEST = migrations("postgres")[-1].version


def relay_on(url: str, folder: Path) -> RelayProcess:
    """A relay's commands with this database."""
    return RelayProcess(folder, {"RELAY_DATABASE": url})


async def opened(url: str) -> Outbox:
    outbox = open_outbox(url)
    await outbox.open()
    return outbox


async def fill(path: Path, leads: int = 0) -> str:
    """Make a file with a lead in every shape, and so many plain ones; its URL."""
    url = f"sqlite:///{path}"
    outbox = await opened(url)
    await put_all(outbox, [signup("u", idempotency_key="k", body_hash=b"\0\xff")])
    claim = await claim_one(outbox)
    await outbox.begin_recording(claim, [attempt(), attempt(NOW + 1)], NOW, LEASE)
    made = lead(metadata={"\ud83d": "\0"}, notes=("ä",), origin={"rule": "POST /"})
    await put_all(outbox, [new_lead(made), new_lead(status=LeadStatus.REJECTED)])
    claim = await claim_one(outbox)
    end = Settlement(LeadStatus.DELIVERED, [attempt(code=None)], delivered_at=NOW + 5)
    await outbox.settle(claim, end, NOW)
    for done in range(0, leads, 200):
        # Not all at once: a commit that does not come within a second is given up.
        some = range(min(200, leads - done))
        await asyncio.gather(*(outbox.put(new_lead()) for _ in some))
    gone = replace(signup("gone"), dedupe_since=0)
    await outbox.import_lead(ImportedLead(gone, LeadStatus.DELIVERED, NOW))
    await outbox.remove_old(0, NOW + 1, 100_000, for_ever=True)
    await put_all(outbox, [new_lead(status=LeadStatus.HELD)])
    await outbox.set_circuit(Circuit(open=True, reason="key", probe_at=NOW, failures=2))
    await outbox.throttled(600, NOW, NOW + 60_000)
    await outbox.close()
    return url


async def everything(url: str) -> tuple[object, ...]:
    """All that an outbox tells."""
    outbox = await opened(url)
    leads = await outbox.list(Query())
    stories = [await outbox.attempts(one.lead.id) for one in leads[-9:]]
    again = replace(signup("gone"), dedupe_since=0)
    wanted = ImportedLead(again, LeadStatus.QUEUED, NOW)
    known = await outbox.import_lead(wanted, dry=True)
    assert known.outcome is Inserted.DUPLICATE
    found = (leads, stories, await outbox.circuit(), await outbox.budget())
    await outbox.close()
    return found


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_url()


async def test_migrate_says_from_which_version_to_which(
    url: str, tmp_path: Path
) -> None:
    relay = relay_on(url, tmp_path)

    first = await relay.run("migrate")
    second = await relay.run("migrate")

    assert first == (0, f"The schema went from version 0 to version {NEWEST}.\n", "")
    assert second == (0, f"The schema has version {NEWEST} already.\n", "")


@pytest.mark.process
async def test_a_file_is_migrated_likewise_and_none_is_made(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    relay = relay_on(f"sqlite:///{path}", tmp_path)

    assert (await relay.run("migrate"))[0] == 1
    assert not path.exists()
    path.touch()
    code, out, _ = await relay.run("migrate")

    assert code == 0
    assert "went from version 0 to version " in out


async def test_a_newer_database_is_left_alone_with_a_clear_line(
    url: str, tmp_path: Path, postgres: PostgresServer
) -> None:
    relay = relay_on(url, tmp_path)
    await relay.run("migrate")
    postgres.sql("UPDATE schema_version SET version = 9999", url)

    for command in ("migrate", "serve"):
        code, _, err = await relay.run(command)
        assert code == 1
        assert "schema version 9999" in err
        assert err.count("\n") == 1


async def test_everything_is_moved_as_it_was(url: str, tmp_path: Path) -> None:
    source = await fill(tmp_path / "relay.db", 30)
    before = await everything(source)

    code, out, err = await relay_on(url, tmp_path).run("migrate", "--from", source)

    assert (code, err) == (0, "")
    assert "Moved 34 leads and 3 calls; the counts agree." in out
    assert await everything(url) == before
    # What comes now goes behind what was moved, and repeats of that are known.
    outbox = await opened(url)
    late = new_lead()
    assert (await outbox.put(late)).outcome is Inserted.NEW
    assert (await outbox.list(Query(limit=1)))[0].lead == late.lead
    again = signup("u", idempotency_key="k", body_hash=b"\0\xff")
    assert (await outbox.put(again)).outcome is Inserted.DUPLICATE
    await outbox.close()


async def test_no_relay_starts_on_a_file_that_was_moved(
    url: str, tmp_path: Path
) -> None:
    source = await fill(tmp_path / "relay.db")
    await relay_on(url, tmp_path).run("migrate", "--from", source)

    with pytest.raises(OutboxUnavailableError, match="moved to another database"):
        await open_outbox(source).open()

    # And to say it again harms nobody.
    code, out, _ = await relay_on(url, tmp_path).run("migrate", "--from", source)
    assert code == 0
    assert "moved before" in out


async def test_a_file_in_use_is_not_moved(url: str, tmp_path: Path) -> None:
    source = await fill(tmp_path / "relay.db")
    outbox = await opened(source)

    code, _, err = await relay_on(url, tmp_path).run("migrate", "--from", source)

    assert code == 1
    assert "a relay still uses" in err
    assert (await outbox.put(new_lead())).outcome is Inserted.NEW
    await outbox.close()
    assert (await relay_on(url, tmp_path).run("migrate", "--from", source))[0] == 0


async def test_leads_are_not_mixed_with_those_of_another_relay(
    url: str, tmp_path: Path
) -> None:
    source = await fill(tmp_path / "relay.db")
    outbox = await opened(url)
    await outbox.put(new_lead())
    await outbox.close()

    code, _, err = await relay_on(url, tmp_path).run("migrate", "--from", source)

    assert code == 1
    assert "move into an empty one" in err
    # The file was not touched: a relay may go on with it.
    await (await opened(source)).close()


async def test_a_move_needs_a_file_and_a_server(url: str, tmp_path: Path) -> None:
    source = await fill(tmp_path / "relay.db")

    missing = await relay_on(url, tmp_path).run("migrate", "--from", "sqlite:///gone")
    to_file = await relay_on(source, tmp_path).run("migrate", "--from", source)

    assert (missing[0], to_file[0]) == (2, 2)
    assert "--from" in missing[2]
    assert "postgresql://" in to_file[2]


async def test_a_move_that_was_killed_goes_on_and_all_are_there_once(
    url: str, tmp_path: Path, postgres: PostgresServer
) -> None:
    source = await fill(tmp_path / "relay.db", 20_000)
    relay = relay_on(url, tmp_path)
    await relay.run("migrate")
    process = await asyncio.create_subprocess_exec(
        *relay.command("migrate", "--from", source),
        env=os.environ | relay.settings(),
        cwd=tmp_path,
        stdout=asyncio.subprocess.DEVNULL,
    )
    while postgres.sql("SELECT count(*) >= 3000 FROM leads", url) != ["t"]:
        assert process.returncode is None

    process.send_signal(signal.SIGKILL)
    await process.wait()

    [over] = postgres.sql("SELECT count(*) FROM leads", url)
    assert 3000 <= int(over) < 20_004
    for half in (source, url):
        with pytest.raises(OutboxUnavailableError, match="moved"):
            await open_outbox(half).open()
    code, out, _ = await relay.run("migrate", "--from", source)
    assert code == 0
    assert "Moved 20004 leads and 3 calls" in out
    assert postgres.sql("SELECT count(DISTINCT id), count(*) FROM leads", url) == [
        "20004|20004"
    ]
    outbox = await opened(url)
    assert (await entry(outbox, (await outbox.list(Query(limit=1)))[0].lead.id)).since
    await outbox.close()
