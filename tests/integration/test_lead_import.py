"""`leads import`: an export comes back as it was, another ledger is sent on."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.cli.main import main
from relay.core.clock import iso, now_ms
from relay.core.dub.track_lead import dedupe_key
from relay.core.leads import CreditedLink, Lead, LeadRecord, LeadStatus, Sale
from relay.operations.lead_import import ImportTally, LeadImport, LedgerFile
from relay.outbox.backends import open_outbox
from relay.outbox.contract import ImportedLead, NewLead, Outbox, Query, Settlement

DAY = 86_400_000
NOW = now_ms()
LEASE = 60_000
LINK = CreditedLink("link_1", domain="acme.link", key="ada", partner_id="pn_1")


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await outbox.open()
    yield outbox
    await outbox.close()


def written(tmp_path: Path, text: str | bytes, name: str = "leads.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(*rows: dict[str, Any], **how: Any) -> str:
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names), **how)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def row(customer: str, days: int = 90, **more: Any) -> dict[str, Any]:
    return {
        "customerExternalId": customer,
        "eventName": "Sign Up",
        "clickId": "hQWlM0a9Zk3xY7bT",
        "createdAt": iso(NOW - days * DAY),
    } | more


async def taken_in(
    path: Path,
    outbox: Outbox,
    ahead: int = 1000,
    waiting: Callable[[int], None] = lambda _: None,
) -> ImportTally:
    """Check and import a file."""
    with path.open("rb") as file:
        work = LeadImport(LedgerFile(file), outbox, ahead=ahead, waiting=waiting)
        tally = work.check()
        await work.run(tally)
    return tally


async def stored(outbox: Outbox) -> dict[str, LeadRecord]:
    return {one.lead.customer_external_id: one for one in await outbox.list(Query())}


# An export of a relay.


def lead(customer: str, at: int, **more: Any) -> Lead:
    return Lead(
        f"lead_{at:012x}{customer.encode().hex():0>20}",
        *("hook", "hQWlM0a9Zk3xY7bT", "Sign Up", customer, at),
        **more,
    )


ZOE: dict[str, Any] = {
    "customer_name": '=Zoë, "Z"\nand Jo',
    "customer_email": "zoe@example.com",
    "customer_avatar": "-https://example.com/a.png",
    "event_quantity": 3,
    "metadata": {"plan": "pro", "seats": [1, 2], "=x": None},
    "notes": ("customerAvatar was left out.",),
}


async def fill(outbox: Outbox) -> None:
    """A lead in each state in which it may rest or wait, and a sale."""
    ends = [
        *(LeadStatus.DELIVERED, LeadStatus.CONFIRMED, LeadStatus.DUPLICATE),
        *(LeadStatus.REJECTED, LeadStatus.UNCONFIRMED, LeadStatus.HELD),
    ]
    for number, status in enumerate(ends):
        made = lead(f"={status}", NOW - (50 - number) * DAY, **ZOE)
        new = NewLead(made, made.id, None, reason="why" if number == 3 else None)
        delivered = NOW - 49 * DAY if number < 2 else None
        known = {"delivered_at": delivered, "link": LINK if number < 2 else None}
        await outbox.import_lead(ImportedLead(new, status, NOW, **known))  # type: ignore[arg-type]
    sale = Sale(4900, "eur", "stripe", "in_1", "Sign Up")
    made = replace(lead("buyer", NOW - 9 * DAY, sale=sale), event_name="Purchase")
    await outbox.put(NewLead(made, "sale:in_1", 0))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_an_export_comes_back_as_it_was(tmp_path: Path, form: str) -> None:
    """Into an empty database, marked as imported."""
    first = {"RELAY_DATABASE": f"sqlite:///{tmp_path}/first.db"}
    second = {"RELAY_DATABASE": f"sqlite:///{tmp_path}/second.db"}
    for environ in (first, second):
        source = open_outbox(environ["RELAY_DATABASE"])
        await source.open()
        if environ is first:
            await fill(source)
            before = await stored(source)
        await source.close()
    file = tmp_path / f"leads.{form}"

    exported = await ran(first, "leads", "export", "--format", form, "--output", file)
    assert exported == 0
    assert await ran(second, "leads", "import", file) == 0
    assert await ran(second, "leads", "import", file) == 0

    outbox = open_outbox(second["RELAY_DATABASE"])
    await outbox.open()
    after = await stored(outbox)
    log = await outbox.audit_log(9)
    await outbox.close()
    assert after.keys() == before.keys()
    for customer, now in after.items():
        then = before[customer]
        assert now.status is then.status
        assert (now.delivered_at, now.link) == (then.delivered_at, then.link)
        assert (now.last_error, now.event_id) == (then.last_error, then.event_id)
        assert now.lead.notes[0].startswith("Imported at ")
        assert now.lead.notes[1:] == then.lead.notes
        assert now.lead.origin["source"] == "hook"
        assert now.lead.source == "import"
        marks: dict[str, Any] = {"source": "", "notes": (), "origin": {}}
        assert replace(now.lead, **marks) == replace(then.lead, **marks)
    assert [one.name for one in log] == ["import", "import"]
    assert "7 new" in log[1].detail
    assert "7 known already" in log[0].detail


async def ran(environ: dict[str, str], *words: object) -> int:
    """Run a command in a thread: it has an event loop of its own."""

    def run() -> int:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            return main([str(word) for word in words])

    return await asyncio.to_thread(run)


# Another ledger.


async def test_leads_from_before_are_sent_in_the_order_in_which_they_came(
    outbox: Outbox, tmp_path: Path
) -> None:
    rows = [row("u", 10, eventName="Second"), row("u", 20, eventName="First")]
    tally = await taken_in(written(tmp_path, table(*rows)), outbox)

    assert (tally.read, tally.new, tally.to_be_sent) == (2, 2, 2)
    events = []
    for _ in rows:
        [claim] = await outbox.claim(9, outbox.now(), LEASE)
        events.append(claim.entry.lead.event_name)
        end = Settlement(LeadStatus.DELIVERED)
        await outbox.settle(claim, end, outbox.now())
    assert events == ["First", "Second"]


async def test_what_dub_has_by_the_file_is_not_sent_wherever_it_stands(
    outbox: Outbox, tmp_path: Path
) -> None:
    rows = [row("u", 20), row("u", 10, status="delivered")]

    tally = await taken_in(written(tmp_path, table(*rows)), outbox)

    assert (tally.new, tally.to_be_sent, tally.duplicate) == (1, 0, 1)
    assert await outbox.claim(9, outbox.now(), LEASE) == []


async def test_what_the_relay_has_taken_itself_is_known(
    outbox: Outbox, tmp_path: Path
) -> None:
    fresh = lead("u", NOW - DAY)
    key = dedupe_key("u", "Sign Up", deferred=False)
    await outbox.put(NewLead(fresh, key, 0))

    tally = await taken_in(
        written(tmp_path, table(row("u", eventName="sign up"))), outbox
    )

    assert (tally.new, tally.duplicate) == (0, 1)


async def test_a_second_run_goes_on_where_the_first_one_stopped(
    outbox: Outbox, tmp_path: Path
) -> None:
    path = written(tmp_path, table(*(row(f"u{n}", n + 1) for n in range(120))))
    cut = asyncio.create_task(taken_in(path, outbox, ahead=70))
    async with asyncio.timeout(20):
        while len(await stored(outbox)) < 70:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    cut.cancel()

    tally = await taken_in(path, outbox)

    assert (tally.new, tally.duplicate) == (50, 70)
    assert len(await stored(outbox)) == 120


async def test_no_more_wait_in_the_queue_than_are_to_wait(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As delivery empties it, more come; a sign-up waits behind few of them."""
    monkeypatch.setattr("relay.operations.lead_import.LOOK_S", 0.01)
    path = written(tmp_path, table(*(row(f"u{n}") for n in range(9))))
    waited: list[int] = []
    running = asyncio.create_task(taken_in(path, outbox, 4, waited.append))
    sent = 0
    async with asyncio.timeout(20):
        while not waited:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while sent < 9:
            counts = await outbox.counts()
            assert counts.get(LeadStatus.QUEUED, 0) <= 4
            for claim in await outbox.claim(1, outbox.now(), LEASE):
                end = Settlement(LeadStatus.DELIVERED)
                await outbox.settle(claim, end, outbox.now())
                sent += 1
            await asyncio.sleep(0.01)
        await running
    assert waited[0] == 4
    assert max(waited) == 4


async def test_a_dry_run_says_what_a_run_does_and_changes_nothing(
    outbox: Outbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        *(row("a"), row("a", 80), row("b", status="delivered"), row("b", 95)),
        *(row("c", erasedAt=iso(NOW - DAY)), row("d"), row("d")),
        row("r", kind="refund", amount=500, invoiceId="in_1", status="delivered"),
    ]
    path = written(tmp_path, table(*rows))
    environ = {"RELAY_DATABASE": f"sqlite:///{tmp_path}/relay.db"}
    for words in (["--dry-run", "--json"], ["--json"]):
        assert await ran(environ, "leads", "import", path, *words) == 0
        told = json.loads(capsys.readouterr().out)
        assert told == {
            "read": 8,
            "new": 3,
            "toBeSent": 2,
            "duplicate": 3,
            "erased": 1,
            "refunds": 1,
            "wrong": 0,
        }
        assert len(await stored(outbox)) == (0 if "--dry-run" in words else 3)


async def test_a_lead_that_another_ledger_has_called_for_is_in_doubt(
    outbox: Outbox, tmp_path: Path
) -> None:
    rows = [row("a", status="waiting", attempts="2"), row("b", status="queued")]
    await taken_in(written(tmp_path, table(*rows)), outbox)

    found = await stored(outbox)
    assert [found[name].in_doubt for name in "ab"] == [True, False]


# What a file may be.


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + table(row("u", customerName="Zoë")),
        table(row("u", customerName="Zoë"), delimiter=";"),
        table(row("u", customerName="Zoë"), delimiter="\t"),
        table(row("u", customerName="Zoë"), lineterminator="\n") + "\n\n",
        json.dumps(row("u", customerName="Zoë")) + "\n\n",
        "\ufeff" + json.dumps(row("u", customerName="Zoë"), ensure_ascii=False),
    ],
)
async def test_files_are_read_as_programs_write_them(
    outbox: Outbox, tmp_path: Path, text: str
) -> None:
    await taken_in(written(tmp_path, text), outbox)

    assert (await stored(outbox))["u"].lead.customer_name == "Zoë"


WRONG: dict[str, tuple[str | bytes, str]] = {
    "no customer": (table(row("")), "2: customerExternalId"),
    "a placeholder": (table(row("undefined")), "2: customerExternalId"),
    "another kind": (
        json.dumps(row("u", kind="click")),
        "1: kind: neither lead nor sale",
    ),
    "no time": (table(row("u", createdAt="")), "2: createdAt: is missing"),
    "no such time": (table(row("u", createdAt="31.1.")), "2: createdAt: not a time"),
    "the future": (table(row("u", -2)), "2: createdAt: not in the past"),
    "no such state": (table(row("u", status="lost")), "2: status"),
    "no number": (table(row("u", eventQuantity="few")), "2: eventQuantity"),
    "no document": (table(row("u", metadata="{")), "2: metadata: not JSON"),
    "notes of another kind": (table(row("u", notes="{}")), "2: notes"),
    "no amount": (table(row("u", kind="sale", amount="x")), "2: amount"),
    "too few cells": (table(row("u")) + "a,b\r\n", "3: 2 cells for 4 columns"),
    "Latin-1": (table(row("u", customerName="Zoë")).encode("latin-1"), "2: not UTF-8"),
    "no JSON": (json.dumps(row("u")) + "\n{", "2: not JSON"),
    "no object": (json.dumps(row("u")) + "\n[]", "2: not a JSON object"),
    "an open quote": (table(row("u")) + '"' + "a,b\n" * 9, "3: 1 cells"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_is_named_and_nothing_is_imported(
    outbox: Outbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text, why = WRONG[name]
    environ = {"RELAY_DATABASE": f"sqlite:///{tmp_path}/relay.db"}
    path = written(tmp_path, text)

    assert await ran(environ, "leads", "import", path) == 1
    said = capsys.readouterr().err
    assert f"line {why}" in said
    assert "nothing was imported" in said
    assert await stored(outbox) == {}


async def test_the_rest_of_a_file_can_be_imported(
    outbox: Outbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"RELAY_DATABASE": f"sqlite:///{tmp_path}/relay.db"}
    path = written(tmp_path, table(row(""), row("u")))

    assert await ran(environ, "leads", "import", path, "--skip-wrong") == 0
    assert "line 2: customerExternalId" in capsys.readouterr().err
    assert list(await stored(outbox)) == ["u"]


@pytest.mark.parametrize("text", ["", "name,mail\nx,y\n", "hello", b"\xff\xfea\0"])
async def test_a_file_that_is_neither_is_refused(
    outbox: Outbox,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | bytes,
) -> None:
    environ = {"RELAY_DATABASE": f"sqlite:///{tmp_path}/relay.db"}

    assert await ran(environ, "leads", "import", written(tmp_path, text)) == 1
    assert "customerExternalId" in capsys.readouterr().err


async def test_columns_that_nothing_reads_are_named(
    outbox: Outbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"RELAY_DATABASE": f"sqlite:///{tmp_path}/relay.db"}
    path = written(tmp_path, table(row("u", customerMail="zoe@example.com")))

    assert await ran(environ, "leads", "import", path) == 0
    assert "customerMail" in capsys.readouterr().err
