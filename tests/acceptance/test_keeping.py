"""Personal data at rest: erased, encrypted and exported, beside running relays."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.capture.spill import Spill
from relay.core.clock import now_ms
from relay.core.leads import LeadStatus
from relay.outbox.backends import open_outbox
from relay.outbox.contract import OutboxUnavailableError, Settlement
from relay.outbox.encryption import PLAIN, Seal
from tests.support.harness import RelayProcess, SandboxDub, post_hook
from tests.support.outbox_rig import DAY, LEASE, lead, new_lead
from tests.support.postgres_server import PostgresServer

EMAIL = "zoe.erasable@example.com"
NAME = "Zoë Erasable-Person"
MESSAGE = "message-for-zoe-erasable"
KEY, NEXT = "a-first-key-for-data", "a-second-key-for-data"


def zoe(click: str, customer: str = EMAIL, **more: Any) -> dict[str, Any]:
    return {
        "clickId": click,
        "eventName": "Sign Up",
        "customerExternalId": customer,
        "customerName": NAME,
        "customerEmail": EMAIL,
        "metadata": {"note": "erasable-metadata"},
    } | more


def files_with(folder: Path, *texts: str) -> list[str]:
    """Name the files in which one of the texts stands."""
    needles = [form for it in texts for form in (it.encode(), json.dumps(it).encode())]
    return [
        file.name
        for file in folder.iterdir()
        if file.is_file() and any(it in file.read_bytes() for it in needles)
    ]


async def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_customer_is_forgotten_everywhere_while_the_relay_runs(
    delivering: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    click = await dub.click()
    hooks = [
        zoe(click),
        zoe("", eventName="Demo"),
        zoe(click, eventName="Long" * 40),
        zoe(click, "other"),
    ]
    for n, hook in enumerate(hooks):
        answer = await post_hook(session, delivering.url, hook, f"{MESSAGE}-{n}")
        assert answer[0] == 202
    await delivering.settled(len(hooks))
    assert files_with(tmp_path, EMAIL)

    code, out, err = await delivering.run("leads", "forget", EMAIL)

    assert (code, err) == (0, "")
    assert "Erased 3 leads (3 delivered)." in out
    # What is left of her stands on another customer's lead.
    assert (await delivering.run("leads", "forget", "other"))[0] == 0
    assert files_with(tmp_path, EMAIL, NAME, MESSAGE, "erasable-metadata") == []
    again = await delivering.run("leads", "forget", EMAIL)
    assert again[0] == 0
    assert "3 leads had been erased before." in again[1]

    # The fact has stayed: the same sign-up counts once.
    repeated = await post_hook(session, delivering.url, zoe(click), "another-message")
    assert (repeated[0], repeated[1]["status"]) == (200, "duplicate")
    redelivered = await post_hook(session, delivering.url, zoe(click), f"{MESSAGE}-0")
    assert redelivered == repeated
    assert len(await dub.state("leads")) == 4
    *_, first = await delivering.leads(EMAIL)
    assert first["id"] == repeated[1]["id"]
    assert first["customerExternalId"].startswith("erased:")
    assert "on request" in first["notes"][0]


async def test_dead_letters_are_forgotten_and_what_is_on_its_way_is_asked_about(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    relay = await RelayProcess(tmp_path, {"RELAY_RETRY_BASE": "30m"}).start()
    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await outbox.open()
    await outbox.put(new_lead(lead(EMAIL, customer_name=NAME), status=LeadStatus.HELD))
    await outbox.put(
        new_lead(lead(EMAIL, customer_name=NAME), status=LeadStatus.REJECTED)
    )
    await outbox.close()
    await post_hook(session, relay.url, zoe("click-of-hers"))

    tried = await relay.run("leads", "forget", EMAIL, "--dry-run")
    refused = await relay.run("leads", "forget", EMAIL)

    assert tried[0] == 0
    assert tried[1].startswith("3 leads would be erased (1 held, 1 ")
    as_json = await relay.run("leads", "forget", EMAIL, "--dry-run", "--json")
    assert sum(json.loads(as_json[1])["wouldErase"].values()) == 3
    assert refused[0] == 1
    assert "1 lead on the way to Dub would never be sent" in refused[2]
    assert "--yes" in refused[2]
    assert EMAIL in {one["customerExternalId"] for one in await relay.leads()}

    code, out, _ = await relay.run("leads", "forget", EMAIL, "--yes", "--json")

    assert code == 0
    erased = json.loads(out)
    assert sum(erased.pop("erased").values()) == 3
    assert erased == {"erasedBefore": 0, "spilled": 0, "problem": None}
    leads = await relay.leads()
    assert {one["status"] for one in leads} == {"rejected"}
    assert files_with(tmp_path, EMAIL, NAME) == []
    retried = await relay.run("leads", "retry", leads[0]["id"])
    assert retried[0] == 1
    assert "was erased" in retried[2]
    assert "0 leads" in (await relay.run("leads", "retry", "--status", "rejected"))[1]
    story = (await relay.run("leads", "show", leads[0]["id"]))[1]
    assert "cannot be sent" in story
    assert await relay.stop() == 0


@pytest.mark.parametrize("seal", [PLAIN, Seal([KEY])], ids=["plain", "sealed"])
async def test_a_customer_is_forgotten_in_the_spill_file_too(
    tmp_path: Path, seal: Seal
) -> None:
    async def refuse(*_: object) -> None:
        raise OutboxUnavailableError("not now")

    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await outbox.open()
    await outbox.close()
    spill = Spill(tmp_path / "relay.db.spill", refuse, seal)
    for customer in (EMAIL, "other", EMAIL, "third"):
        assert await spill.keep(new_lead(lead(customer, customer_name=customer)), None)
    assert bool(files_with(tmp_path, EMAIL)) is not seal.on
    keys = {"RELAY_DATA_KEY": KEY} if seal.on else {}
    relay = RelayProcess(tmp_path, keys)

    if seal.on:
        blind = await RelayProcess(tmp_path).run("leads", "forget", EMAIL)
        assert blind[0] == 1
        assert "4 lines of the spill file cannot be read" in blind[2]
    code, out, _ = await relay.run("leads", "forget", EMAIL)

    assert code == 0
    assert "Erased 2 leads from the spill file." in out
    assert files_with(tmp_path, EMAIL) == []
    await relay.start()
    await until(lambda: [e["event"] for e in relay.events].count("lead.unspilled") == 2)
    assert {x["customerExternalId"] for x in await relay.leads()} == {"other", "third"}
    await relay.stop()


async def old_lead(url: str, seal: Seal = PLAIN) -> str:
    """Put a lead that was delivered forty days ago; its id."""
    outbox = open_outbox(url, seal)
    await outbox.open()
    at = now_ms() - 40 * DAY
    made = lead(EMAIL, customer_name=NAME, created_at=at)
    await outbox.put(new_lead(made, dedupe_key=f"lead:{EMAIL}", dedupe_since=0))
    [claim] = await outbox.claim(1, now_ms(), LEASE)
    await outbox.settle(claim, Settlement(LeadStatus.DELIVERED, delivered_at=at), at)
    await outbox.close()
    return made.id


@pytest.mark.parametrize(("days", "kept"), [("30", False), ("0", True), ("41", True)])
async def test_after_its_days_a_delivered_lead_loses_its_personal_data(
    tmp_path: Path, days: str, kept: bool
) -> None:
    url = f"sqlite:///{tmp_path}/relay.db"
    lead_id = await old_lead(url)
    relay = RelayProcess(tmp_path, {"RELAY_RETENTION_DAYS": days})
    await relay.start()

    if not kept:
        await until(lambda: "retention.erased" in {e["event"] for e in relay.events})
    code, out, _ = await relay.run("leads", "show", lead_id, "--json")

    assert code == 0
    told = json.loads(out)
    assert (told["customerName"] == NAME) is kept
    assert (told["customerExternalId"] == EMAIL) is kept
    assert told["status"] == "delivered"
    assert await relay.stop() == 0
    assert bool(files_with(tmp_path, EMAIL, NAME)) is kept


async def test_personal_data_is_encrypted_on_disk_and_keys_change_without_a_stop(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    base = {"DUB_API_URL": dub.url}
    relay = await RelayProcess(tmp_path, base | {"RELAY_DATA_KEY": KEY}).start()
    hook = zoe(await dub.click(), "u_1")
    assert (await post_hook(session, relay.url, hook))[0] == 202
    await relay.settled(1)
    assert [one["name"] for one in await dub.state("customers")] == [NAME]
    assert files_with(tmp_path, EMAIL, NAME, "erasable-metadata") == []

    rotated = RelayProcess(tmp_path, base | {"RELAY_DATA_KEY": f"{NEXT},{KEY}"})
    code, out, err = await rotated.run("leads", "rekey")

    assert (code, err) == (0, "")
    assert "1 lead encrypted with the first key" in out
    again = await rotated.run("leads", "rekey", "--json")
    assert json.loads(again[1]) == {"changed": 0, "unreadable": 0, "busy": 0}
    told = (await rotated.run("leads", "show", (await relay.leads())[0]["id"]))[1]
    assert NAME in told
    only = RelayProcess(tmp_path, {"RELAY_DATA_KEY": NEXT})
    assert "1 lead decrypted" in (await only.run("leads", "rekey", "--decrypt"))[1]
    assert files_with(tmp_path, EMAIL) != []
    none = await RelayProcess(tmp_path).run("leads", "rekey")
    assert none[0] == 2
    assert "RELAY_DATA_KEY" in none[2]
    assert await relay.stop() == 0


async def test_without_its_key_a_lead_waits_and_goes_once_the_key_is_back(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    keyed = {"RELAY_DATA_KEY": KEY}
    relay = await RelayProcess(tmp_path, keyed).start()
    await post_hook(session, relay.url, zoe(await dub.click(), "u_1"))
    await relay.stop(signal.SIGKILL)
    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as file:
        file.execute("UPDATE leads SET status = 'queued', due_at = created_at")

    keyless = RelayProcess(tmp_path, {"DUB_API_URL": dub.url, "RELAY_DATA_KEY": NEXT})
    await keyless.start()
    await until(lambda: "lead.waiting" in {e["event"] for e in keyless.events})

    [waiting] = await keyless.leads()
    assert waiting["status"] == "waiting"
    assert "RELAY_DATA_KEY" in waiting["lastError"]
    assert await dub.state("calls") == []
    code, _, err = await keyless.run("leads", "rekey")
    assert code == 1
    assert "a key is missing in RELAY_DATA_KEY" in err
    assert await keyless.stop() == 0

    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as file:
        file.execute("UPDATE leads SET due_at = 0")
    both = RelayProcess(
        tmp_path, {"DUB_API_URL": dub.url, "RELAY_DATA_KEY": f"{NEXT},{KEY}"}
    )
    await both.start()
    [delivered] = await both.settled(1)
    assert delivered["status"] == "delivered"
    assert [one["name"] for one in await dub.state("customers")] == [NAME]
    assert await both.stop() == 0


async def test_an_export_is_complete_and_runs_nothing_in_a_spreadsheet(
    tmp_path: Path,
) -> None:
    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await outbox.open()
    bad = [
        lead("=1+1", customer_name='=HYPERLINK("http://x")', metadata={"a": [1]}),
        lead("+1", customer_name="-2"),
        lead("@x", customer_name="\tTab", notes=("one", "two")),
        lead("plain, with comma", customer_name='q"uote\nline'),
    ]
    for one in bad:
        await outbox.put(new_lead(one))
    await outbox.put(new_lead(lead("held"), status=LeadStatus.HELD))
    await outbox.close()
    relay = RelayProcess(tmp_path)

    code, out, err = await relay.run("leads", "export", "--format", "csv")

    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["customerExternalId"] for row in rows] == [
        *("held", "plain, with comma", "'@x", "'+1", "'=1+1")
    ]
    assert [row["customerName"] for row in rows] == [
        *("", 'q"uote\nline', "'\tTab", "'-2", "'" + '=HYPERLINK("http://x")')
    ]
    assert rows[-1]["metadata"] == '{"a": [1]}'

    file = tmp_path / "out.jsonl"
    arguments = ("--format", "jsonl", "--status", "queued", "--limit", "3")
    code, out, err = await relay.run(
        "leads", "export", *arguments, "--output", str(file)
    )
    assert (code, out) == (0, "")
    assert "Wrote 3 leads" in err
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert [one["customerExternalId"] for one in told] == [
        *("plain, with comma", "@x", "+1")
    ]
    assert file.stat().st_mode & 0o777 == 0o600
    assert not file.with_name("out.jsonl.part").exists()
    missing = await relay.run(
        "leads", "export", *arguments, "--output", str(tmp_path / "no" / "file")
    )
    assert missing[0] == 1
    assert "--output" in missing[2]


async def test_on_postgres_a_customer_is_forgotten_while_the_relay_runs(
    postgres: PostgresServer,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    url = postgres.new_url()
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url, "RELAY_DATABASE": url})
    await relay.start()
    click = await dub.click()
    await post_hook(session, relay.url, zoe(click))
    await relay.settled(1)

    code, out, err = await relay.run("leads", "forget", EMAIL)

    assert (code, err) == (0, "")
    assert "Erased 1 lead (1 delivered)." in out
    dump = "".join(postgres.sql("SELECT leads::text FROM leads", url))
    assert EMAIL not in dump
    assert NAME not in dump
    repeated = await post_hook(session, relay.url, zoe(click), "another-message")
    assert repeated[1]["status"] == "duplicate"
    assert await relay.stop() == 0
