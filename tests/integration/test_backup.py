"""Copies of the database: made under load, put back, and refused where they hurt."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.capture.spill import Spill
from relay.core.clock import now_ms
from relay.core.leads import Lead
from relay.outbox.backends import open_outbox
from relay.outbox.contract import NewLead, Outbox, Query
from relay.outbox.encryption import Seal
from tests.support.harness import RelayProcess, SandboxDub, post_hook

pytestmark = pytest.mark.process

LEASE = 60_000


def new_lead(number: int) -> NewLead:
    made = Lead(
        id=f"lead_{number:026}",
        source="hook",
        click_id="hQWlM0a9Zk3xY7bT",
        event_name="Sign Up",
        customer_external_id=f"u_{number}",
        created_at=now_ms(),
    )
    return NewLead(made, dedupe_key=f"{number}", dedupe_since=None)


async def filled(folder: Path, leads: int = 3) -> RelayProcess:
    """A database with so many leads, of which the first is being sent."""
    outbox = open_outbox(f"sqlite:///{folder}/relay.db")
    await outbox.open()
    for number in range(leads):
        await outbox.put(new_lead(number))
    [claim] = await outbox.claim(1, now_ms(), LEASE)
    await outbox.begin_recording(claim, [], now_ms(), LEASE)
    await outbox.close()
    return RelayProcess(folder)


async def states(file: Path) -> dict[str, Any]:
    outbox: Outbox = open_outbox(f"sqlite:///{file}")
    await outbox.open()
    try:
        return {status.value: n for status, n in (await outbox.counts()).items()}
    finally:
        await outbox.close()


def change(file: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement, values)


def found(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


async def test_a_backup_made_under_load_has_every_lead_answered_before_it(
    delivering: RelayProcess, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    taken: list[str] = []
    stop = asyncio.Event()

    async def load(name: str) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            hook = {
                "clickId": "hQWlM0a9Zk3xY7bT",
                "eventName": "Sign Up",
                "customerExternalId": f"{name}{n}",
            }
            status, answer = await post_hook(
                session, delivering.url, hook, f"{name}{n}"
            )
            assert status == 202
            taken.append(answer["id"])

    callers = [asyncio.create_task(load(name)) for name in "abcd"]
    while len(taken) < 50:  # noqa: ASYNC110 - other tasks fill it
        await asyncio.sleep(0.01)
    before = set(taken)

    code, out, err = await delivering.run("backup", "copy.db", "--json")

    stop.set()
    await asyncio.gather(*callers)
    assert (code, err) == (0, "")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        copied = {row[0] for row in copy.execute("SELECT id FROM leads")}
    assert before <= copied
    assert json.loads(out)["total"] == len(copied)
    assert oct((tmp_path / "copy.db").stat().st_mode)[-3:] == "600"
    assert found(tmp_path, "copy.db*") == [tmp_path / "copy.db"]


async def test_what_is_spilled_is_in_the_backup_too(tmp_path: Path) -> None:
    relay = await filled(tmp_path)

    async def refuse(_: NewLead, __: str | None) -> object:
        raise AssertionError

    spill = Spill(tmp_path / "relay.db.spill", refuse)
    await spill.keep(new_lead(7), None)
    (tmp_path / "relay.db.spill").rename(tmp_path / "relay.db.spill.1.aside")
    await spill.keep(new_lead(8), None)
    # In the database meanwhile, and not yet out of the file.
    await spill.keep(new_lead(2), None)

    code, out, _ = await relay.run("backup", "copy.db", "--json")

    assert code == 0
    assert (json.loads(out)["total"], json.loads(out)["spilled"]) == (5, 3)
    assert sum((await states(tmp_path / "copy.db")).values()) == 5
    assert len(found(tmp_path, "relay.db.spill*")) == 2


async def test_a_backup_never_overwrites_a_file(tmp_path: Path) -> None:
    relay = await filled(tmp_path)
    (tmp_path / "copy.db").write_text("precious")

    code, out, err = await relay.run("backup", "copy.db")

    assert (code, out) == (1, "")
    assert "is there already" in err
    assert (tmp_path / "copy.db").read_text() == "precious"


async def test_a_restored_database_goes_on_as_after_a_crash(
    dub: SandboxDub, tmp_path: Path
) -> None:
    relay = await filled(tmp_path)
    relay.environment["DUB_API_URL"] = dub.url
    click = await dub.click()
    change(tmp_path / "relay.db", "UPDATE leads SET click_id = ?", click)
    assert (await relay.run("backup", "copy.db"))[0] == 0
    (tmp_path / "relay.db").unlink()

    code, out, err = await relay.run("restore", "copy.db", "--json")

    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["leads"] == {"queued": 2, "sending": 1}
    await relay.start()
    leads = await relay.settled(3)
    assert await relay.stop() == 0
    assert {lead["status"] for lead in leads} == {"delivered"}
    assert len(await dub.state("leads")) == 3


async def test_a_lead_that_dub_took_after_the_backup_does_not_count_twice(
    dub: SandboxDub, tmp_path: Path
) -> None:
    relay = await filled(tmp_path, leads=1)
    relay.environment["DUB_API_URL"] = dub.url
    change(
        tmp_path / "relay.db",
        "UPDATE leads SET click_id = ?, status = 'queued', in_doubt = 0,"
        " token = NULL, due_at = 0",
        await dub.click(),
    )
    assert (await relay.run("backup", "copy.db"))[0] == 0
    await relay.start()
    await relay.settled(1)
    assert await relay.stop() == 0

    code, _, _ = await relay.run("restore", "copy.db", "--force")

    assert code == 0
    await relay.start()
    [lead] = await relay.settled(1)
    assert await relay.stop() == 0
    assert lead["status"] == "unconfirmed"
    assert len(await dub.state("leads")) == 1


@pytest.mark.parametrize(
    "mark", ["UPDATE backup SET taken_at = 1", "DROP TABLE backup"]
)
async def test_open_leads_of_an_old_backup_wait_for_a_person(
    tmp_path: Path, mark: str
) -> None:
    relay = await filled(tmp_path)
    assert (await relay.run("backup", "copy.db"))[0] == 0
    change(tmp_path / "copy.db", mark)

    code, _, err = await relay.run("restore", "copy.db", "--force")

    assert code == 0
    assert "leads retry --status unconfirmed" in err
    assert await states(tmp_path / "relay.db") == {"unconfirmed": 3}


async def test_a_restore_puts_no_leads_aside_unasked_and_keeps_them_when_asked(
    tmp_path: Path,
) -> None:
    relay = await filled(tmp_path, leads=2)
    assert (await relay.run("backup", "copy.db"))[0] == 0
    change(tmp_path / "relay.db", "DELETE FROM leads WHERE customer = 'u_1'")

    code, out, err = await relay.run("restore", "copy.db")

    assert (code, out) == (1, "")
    assert "--force" in err
    assert sum((await states(tmp_path / "relay.db")).values()) == 1
    assert (await relay.run("restore", "copy.db", "--force"))[0] == 0
    assert sum((await states(tmp_path / "relay.db")).values()) == 2
    [kept] = found(tmp_path, "relay.db.replaced-*")
    assert sum((await states(kept)).values()) == 1


async def test_a_database_in_use_is_never_replaced(
    delivering: RelayProcess, tmp_path: Path
) -> None:
    assert (await delivering.run("backup", "copy.db"))[0] == 0

    code, out, err = await delivering.run("restore", "copy.db", "--force")

    assert (code, out) == (1, "")
    assert "a relay still uses" in err
    assert found(tmp_path, "*.restoring*") == []


async def test_a_damaged_database_can_be_replaced(tmp_path: Path) -> None:
    relay = await filled(tmp_path)
    assert (await relay.run("backup", "copy.db"))[0] == 0
    (tmp_path / "relay.db").write_bytes(b"no database at all" * 1000)

    assert (await relay.run("restore", "copy.db"))[0] == 1
    assert (await relay.run("restore", "copy.db", "--force"))[0] == 0

    assert sum((await states(tmp_path / "relay.db")).values()) == 3


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" * 9])
async def test_what_is_no_backup_is_not_restored(
    tmp_path: Path, content: bytes
) -> None:
    relay = RelayProcess(tmp_path)
    (tmp_path / "copy.db").write_bytes(content)

    code, out, err = await relay.run("restore", "copy.db")

    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert not (tmp_path / "relay.db").exists()


async def test_a_torn_backup_is_not_restored(tmp_path: Path) -> None:
    relay = await filled(tmp_path, leads=200)
    assert (await relay.run("backup", "copy.db"))[0] == 0
    whole = (tmp_path / "copy.db").read_bytes()
    (tmp_path / "copy.db").write_bytes(whole[: len(whole) // 2])
    shutil.move(tmp_path / "relay.db", tmp_path / "old.db")

    code, _, _ = await relay.run("restore", "copy.db")

    assert code == 1
    assert not (tmp_path / "relay.db").exists()


@pytest.mark.parametrize(
    ("line", "tool"),
    [
        ("backup", 'pg_dump --format=custom --file=copy.db "$RELAY_DATABASE"'),
        ("restore", "pg_restore --clean --if-exists copy.db --dbname"),
    ],
)
async def test_for_postgresql_its_own_tool_is_named(
    tmp_path: Path, line: str, tool: str
) -> None:
    (tmp_path / "copy.db").touch()
    url = "postgresql://relay:CANARY@db/relay"
    relay = RelayProcess(tmp_path, {"RELAY_DATABASE": url})

    code, out, err = await relay.run(line, "copy.db")

    assert (code, out) == (2, "")
    assert tool in err
    assert "CANARY" not in err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("there", [True, False])
async def test_what_root_restores_belongs_to_the_relays_user(
    tmp_path: Path, *, there: bool
) -> None:
    relay = await filled(tmp_path)
    assert (await relay.run("backup", "copy.db"))[0] == 0
    if there:
        os.chown(tmp_path / "relay.db", 65532, 65532)
    else:
        (tmp_path / "relay.db").unlink()
        os.chown(tmp_path, 65532, 65532)

    assert (await relay.run("restore", "copy.db", "--force"))[0] == 0

    found = (tmp_path / "relay.db").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65532, 65532, 0o600)


async def test_what_is_spilled_stays_encrypted_in_the_backup(tmp_path: Path) -> None:
    key = "a-long-key-for-tests-only-0123456789"
    relay = RelayProcess(tmp_path, {"RELAY_DATA_KEY": key})
    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db", Seal((key,)))
    await outbox.open()
    await outbox.close()

    async def refuse(_: NewLead, __: str | None) -> object:
        raise AssertionError

    told = new_lead(7)
    person = replace(told.lead, customer_email="CANARY@example.com")
    spill = Spill(tmp_path / "relay.db.spill", refuse, Seal((key,)))
    await spill.keep(replace(told, lead=person), None)

    code, out, _ = await relay.run("backup", "copy.db", "--json")

    assert (code, json.loads(out)["total"]) == (0, 1)
    assert b"CANARY" not in (tmp_path / "copy.db").read_bytes()
    copy = open_outbox(f"sqlite:///{tmp_path}/copy.db", Seal((key,)))
    await copy.open()
    [kept] = await copy.list(Query())
    await copy.close()
    assert kept.lead.customer_email == "CANARY@example.com"
