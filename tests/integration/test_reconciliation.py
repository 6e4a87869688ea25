"""The ledger beside Dub's own list of events: what is proven, missing, doubled."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from relay.core.dub import events
from relay.core.dub.retry import DAY, HOUR, Policy
from relay.core.leads import Lead, LeadRecord, LeadStatus, Mode, Sale, Step
from relay.delivery.deliver import Delivery, DeliveryTerms
from relay.delivery.dub_client import DubClient
from relay.observability.metrics import Metrics
from relay.operations import reconcile
from relay.operations.alerts.causes import AlertLimits
from relay.operations.alerts.watcher import AlertTerms, AlertWatcher
from relay.operations.looks import Report
from relay.operations.reconcile import (
    LEASE_MS,
    BusyError,
    Reconciler,
    ReconcileTerms,
)
from relay.operations.status import Overview, look
from relay.outbox.backends import open_outbox
from relay.outbox.contract import Outbox, Query, Wanted
from relay.sandbox.app import DUB, make_dub
from relay.sandbox.dub import Dub
from tests.support.harness import API_KEY, RELAY_SECRET
from tests.support.outbox_rig import LEASE, NOW, attempt, entry, lead, new_lead

MINUTE = 60_000
AFTER = 15 * MINUTE


class Rig:
    """A ledger, a delivery, a Dub and a reconciler on one clock that is set."""

    client: DubClient
    url: str

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.at = NOW
        self.app = make_dub(api_key=API_KEY, clock=self.now)
        self.dub: Dub = self.app[DUB]

    def now(self) -> int:
        return self.at

    def looker(self, **terms: Any) -> Reconciler:
        defaults: dict[str, Any] = {
            "every_s": 3600.0,
            "after_ms": AFTER,
            "rate": 10_000,
            "plan": 600_000,
        }
        return Reconciler(
            self.outbox,
            self.client,
            ReconcileTerms(**(defaults | terms)),
            secrets=(RELAY_SECRET,),
            clock=self.now,
            metrics=Metrics(),
        )

    async def look(self, after_ms: int = HOUR, **terms: Any) -> Report:
        self.at += after_ms
        return await self.looker(**terms).once()

    async def fault(self, **knobs: Any) -> None:
        async with ClientSession() as session:
            await session.delete(f"{self.url}/sandbox/faults")
            if knobs:
                await session.post(f"{self.url}/sandbox/faults", json=knobs)

    def click(self) -> str:
        return self.dub.click(self.dub.links["ada"]).id

    async def put(self, customer: str, **more: Any) -> Lead:
        defaults = {"click_id": self.click(), "created_at": self.at}
        made = lead(customer, **(defaults | more))
        await self.outbox.put(new_lead(made))
        return made

    async def deliver(self, *, steps: int = 2, more_ms: int = 0) -> LeadRecord:
        self.at += more_ms
        terms = DeliveryTerms(Policy(base_ms=1), 4, LEASE, 600_000, two_step=steps == 2)
        delivery = Delivery(
            self.outbox,
            self.client,
            secrets=(RELAY_SECRET,),
            terms=terms,
            clock=self.now,
            roll=lambda: 0.0,
            metrics=Metrics(),
        )
        [claim] = await self.outbox.claim(1, self.at, LEASE)
        await delivery.deliver(claim)
        return await entry(self.outbox, claim.entry.lead.id)

    async def delivered(self, customer: str, **more: Any) -> LeadRecord:
        await self.put(customer, **more)
        found = await self.deliver()
        assert found.status is LeadStatus.DELIVERED
        return found

    async def in_doubt(self, customer: str, *, cut: str, **more: Any) -> LeadRecord:
        """A lead whose call got no answer, and whose repeat was answered by no link."""
        made = await self.put(customer, **more)
        await self.fault(cut=cut, step="record", count=1)
        found = await self.deliver()
        assert found.status is LeadStatus.WAITING
        await self.fault()
        if cut == "before":
            self.dub._claim(customer, made.event_name)
        found = await self.deliver(more_ms=MINUTE)
        assert found.status is LeadStatus.UNCONFIRMED
        return found

    async def now_is(self, one: LeadRecord) -> LeadRecord:
        return await entry(self.outbox, one.lead.id)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await outbox.open()
    rig = Rig(outbox)
    server = TestServer(rig.app)
    await server.start_server()
    rig.url = str(server.make_url("/")).rstrip("/")
    async with DubClient(rig.url, API_KEY, timeout=5) as rig.client:
        yield rig
    await server.close()
    await outbox.close()


# --- What is there is confirmed, with Dub's own event. ---


async def test_a_lead_that_dub_lists_is_confirmed_with_its_event(rig: Rig) -> None:
    one = await rig.delivered("u_1")

    report = await rig.look()

    [event] = rig.dub.leads
    found = await rig.now_is(one)
    assert (found.status, found.confirmed_by) == (LeadStatus.CONFIRMED, "events")
    assert found.events == ((event.id, event.at),)
    assert (report.confirmed, report.missing, report.doubled) == (1, 0, 0)


async def test_a_young_lead_is_left_alone_until_its_absence_shows_something(
    rig: Rig,
) -> None:
    one = await rig.delivered("u_1")
    rig.dub.leads.clear()

    report = await rig.look(after_ms=5 * MINUTE)

    assert (await rig.now_is(one)).missing_at is None
    assert report.missing == 0


async def test_a_list_that_lags_makes_nothing_missing(rig: Rig) -> None:
    await rig.fault(events_lag=10 * 60, path="/events")
    one = await rig.delivered("u_1")
    for _ in range(4):
        report = await rig.look(after_ms=6 * MINUTE)
        assert report.missing == 0
    await rig.look()
    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED


async def test_what_was_missing_and_comes_late_is_confirmed(rig: Rig) -> None:
    await rig.fault(events_lag=55 * 60, path="/events")
    one = await rig.delivered("u_1")
    assert (await rig.look(after_ms=45 * MINUTE)).missing == 1

    assert (await rig.look(after_ms=15 * MINUTE)).missing == 0
    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED


async def test_a_lead_is_found_by_the_folded_name_of_its_event(rig: Rig) -> None:
    one = await rig.delivered("u_1", event_name="Sign Up")
    rig.dub.leads[:] = [replace(rig.dub.leads[0], event_name="SIGN UP")]
    await rig.look()
    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED


async def test_a_lead_with_a_quantity_stands_there_so_many_times(rig: Rig) -> None:
    one = await rig.delivered("u_1", event_quantity=3)

    report = await rig.look()

    found = await rig.now_is(one)
    assert (found.status, len(found.events)) == (LeadStatus.CONFIRMED, 3)
    assert report.doubled == 0


async def test_a_deferred_lead_makes_no_event_and_is_not_missing(rig: Rig) -> None:
    one = await rig.delivered("u_1", mode=Mode.DEFERRED)
    await rig.look()
    assert (await rig.look()).missing == 0
    assert (await rig.now_is(one)).status is LeadStatus.DELIVERED


async def test_a_customer_deleted_at_dub_is_found_by_the_click(rig: Rig) -> None:
    one = await rig.delivered("u_1")
    rig.dub.customers.clear()

    await rig.look()

    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED


async def test_an_erased_lead_is_confirmed_all_the_same(rig: Rig) -> None:
    one = await rig.delivered("u_1")
    await rig.outbox.forget(Wanted(customer="u_1"), rig.at)
    await rig.look()
    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED


@pytest.mark.parametrize("minutes", [-45, 45])
async def test_clocks_may_disagree(rig: Rig, minutes: int) -> None:
    one = await rig.delivered("u_1")
    [event] = rig.dub.leads
    rig.dub.leads[:] = [replace(event, at=event.at + minutes * MINUTE)]

    assert (await rig.look()).missing == 0
    assert (await rig.look(after_ms=2 * HOUR)).missing == 0
    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED


# --- What is missing or there twice is named. ---


async def test_a_lead_that_dub_forgot_is_missing(rig: Rig) -> None:
    one, other = await rig.delivered("u_1"), await rig.delivered("u_2")
    del rig.dub.leads[0]

    await rig.look()
    report = await rig.look()

    assert (report.missing, report.doubled) == (1, 0)
    found = await rig.now_is(one)
    assert (found.status, found.missing_at) == (LeadStatus.DELIVERED, rig.at)
    assert [e.lead.id for e in await rig.outbox.list(Query(missing=True))] == [
        one.lead.id
    ]
    assert (await rig.now_is(other)).status is LeadStatus.CONFIRMED


async def test_a_missing_lead_is_sent_again_when_dubs_key_is_free(rig: Rig) -> None:
    one = await rig.delivered("u_1")
    rig.dub.leads.clear()
    await rig.look()
    await rig.look(resend=True)

    waiting = await rig.now_is(one)
    assert waiting.status is LeadStatus.WAITING
    assert waiting.due_at is not None
    assert waiting.due_at > one.lead.created_at + 7 * DAY
    assert any("sent again" in note for note in waiting.lead.notes)

    rig.at = waiting.due_at
    assert (await rig.deliver()).status is LeadStatus.DELIVERED
    assert [event.customer.external_id for event in rig.dub.leads] == ["u_1"]
    await rig.look()
    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED
    assert (await rig.outbox.findings()).missing == 0


async def test_a_lead_that_waits_to_be_sent_again_and_comes_late_is_not_sent(
    rig: Rig,
) -> None:
    one = await rig.delivered("u_1")
    late = list(rig.dub.leads)
    rig.dub.leads.clear()
    await rig.look()
    await rig.look(resend=True)
    rig.dub.leads.extend(late)

    await rig.look(resend=True)

    found = await rig.now_is(one)
    assert (found.status, found.due_at) == (LeadStatus.CONFIRMED, None)


async def test_a_person_may_send_a_missing_lead_again(rig: Rig) -> None:
    one = await rig.delivered("u_1")
    rig.dub.leads.clear()
    await rig.look()
    await rig.look()
    done = await rig.outbox.requeue(
        one.lead.id, rig.at, window_ms=7 * DAY, key_ms=7 * DAY
    )
    assert done.due_at is not None
    assert (await rig.now_is(one)).status is LeadStatus.WAITING


async def test_a_lead_that_stands_there_twice_is_named_with_both_events(
    rig: Rig,
) -> None:
    one = await rig.delivered("u_1")
    [event] = rig.dub.leads
    rig.dub.leads.append(replace(event, id="AnotherEvent0001", at=event.at + 1000))

    report = await rig.look()

    found = await rig.now_is(one)
    assert report.doubled == 1
    assert [event_id for event_id, _ in found.events] == [event.id, "AnotherEvent0001"]
    assert [e.lead.id for e in await rig.outbox.list(Query(doubled=True))] == [
        one.lead.id
    ]


async def test_a_second_event_that_is_seen_later_doubles_it_too(rig: Rig) -> None:
    one = await rig.delivered("u_1")
    await rig.look()
    [event] = rig.dub.leads
    rig.dub.leads.append(replace(event, id="AnotherEvent0001", at=rig.at))

    assert (await rig.look()).doubled == 1
    assert len((await rig.now_is(one)).events) == 2


async def test_the_same_events_read_again_change_nothing(rig: Rig) -> None:
    one = await rig.delivered("u_1")
    await rig.look()
    before = await rig.now_is(one)

    report = await rig.looker().once(since=NOW - DAY)

    assert await rig.now_is(one) == before
    assert (report.confirmed, report.doubled) == (0, 0)


async def test_events_of_others_are_counted_by_where_they_come_from(rig: Rig) -> None:
    one = await rig.delivered("u_1")
    [event] = rig.dub.leads
    stranger = replace(event.customer, id="cus_2", external_id="elsewhere")
    of_stripe = replace(event.customer, id="cus_3", external_id="cus_stripe")
    old = replace(event.customer, id="cus_4", external_id="old")
    for number, (customer, at) in enumerate(
        [(stranger, event.at), (of_stripe, event.at), (old, event.at - 3 * DAY)]
    ):
        rig.dub.customers[customer.external_id] = customer
        other = replace(event, id=f"Other{number}", customer=customer, at=at)
        rig.dub.leads.append(other)
    rig.dub.leads.sort(key=lambda each: each.at)

    report = await rig.look()

    assert dict(report.elsewhere) == {
        "before the relay": 1,
        "Stripe": 1,
        "another way in": 1,
    }
    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED
    assert sum((await rig.look()).elsewhere.values()) == 0


# --- What is in doubt is settled without a person. ---


async def test_a_lead_in_doubt_that_counted_is_confirmed(rig: Rig) -> None:
    one = await rig.in_doubt("u_1", cut="after")

    report = await rig.look()

    found = await rig.now_is(one)
    assert (found.status, found.in_doubt) == (LeadStatus.CONFIRMED, False)
    assert report.settled == 1


async def test_a_lead_in_doubt_that_did_not_count_goes_once_the_key_is_free(
    rig: Rig,
) -> None:
    one = await rig.in_doubt("u_1", cut="before")
    assert not rig.dub.leads

    report = await rig.look()

    waiting = await rig.now_is(one)
    assert (waiting.status, waiting.in_doubt) == (LeadStatus.WAITING, False)
    assert report.settled == 1
    assert waiting.due_at is not None
    rig.at = waiting.due_at
    assert (await rig.deliver()).status is LeadStatus.DELIVERED
    assert len(rig.dub.leads) == 1


async def test_a_lead_in_doubt_is_not_judged_while_dub_may_be_at_work(
    rig: Rig,
) -> None:
    one = await rig.in_doubt("u_1", cut="before")
    await rig.look(after_ms=10 * MINUTE)
    assert (await rig.now_is(one)).status is LeadStatus.UNCONFIRMED


async def test_a_lead_in_doubt_whose_customer_counts_by_another_click(
    rig: Rig,
) -> None:
    one = await rig.in_doubt("u_1", cut="after")
    [event] = rig.dub.leads
    other = rig.dub.clicks[rig.click()]
    rig.dub.leads[:] = [replace(event, click=other)]

    await rig.look()

    found = await rig.now_is(one)
    assert found.status is LeadStatus.DUPLICATE
    assert "another click" in (found.last_error or "")


async def sold(rig: Rig, invoice: str | None) -> LeadRecord:
    """A sale in doubt: its call was counted, and its answer lost."""
    await rig.delivered("u_1")
    sale = Sale(amount=4900, invoice_id=invoice)
    made = lead("u_1", click_id="", created_at=rig.at, event_name="Purchase", sale=sale)
    await rig.outbox.put(new_lead(made))
    await rig.fault(cut="after", path="/track/sale", count=1)
    await rig.deliver()
    await rig.fault()
    return await entry(rig.outbox, made.id)


async def test_a_sale_in_doubt_without_an_invoice_is_confirmed_by_its_event(
    rig: Rig,
) -> None:
    one = await sold(rig, None)
    assert one.status is LeadStatus.UNCONFIRMED

    await rig.look()

    found = await rig.now_is(one)
    assert (found.status, len(rig.dub.sales)) == (LeadStatus.CONFIRMED, 1)
    assert found.event_id == rig.dub.sales[0].id


async def test_a_sale_in_doubt_that_dub_does_not_have_is_sent_again(rig: Rig) -> None:
    one = await sold(rig, None)
    rig.dub.sales.clear()

    await rig.look()
    assert (await rig.now_is(one)).status is LeadStatus.QUEUED
    assert (await rig.deliver()).status is LeadStatus.DELIVERED
    assert len(rig.dub.sales) == 1


# --- Whether it can be read at all, and by whom. ---


async def test_without_the_permission_nothing_is_provable_and_nothing_changes(
    rig: Rig,
) -> None:
    one = await rig.delivered("u_1")
    await rig.fault(analytics=False, path="/events")

    report = await rig.look()

    assert report.not_provable is not None
    assert "analytics.read" in report.not_provable
    assert await rig.now_is(one) == one

    await rig.fault()
    assert (await rig.look()).confirmed == 1


@pytest.mark.parametrize(
    "knobs",
    [{"status": 500}, {"html": True}, {"cut": "mid-body"}, {"status": 429}],
    ids=str,
)
async def test_a_look_that_dub_breaks_off_goes_on_later(
    rig: Rig, knobs: dict[str, Any]
) -> None:
    one = await rig.delivered("u_1")
    await rig.fault(**knobs, path="/events")
    report = await rig.look()
    assert report.unfinished is not None
    assert await rig.now_is(one) == one

    await rig.fault()
    assert (await rig.look()).confirmed == 1


async def test_an_answer_that_is_lost_ends_no_look(rig: Rig) -> None:
    await rig.delivered("u_1")
    await rig.fault(status=500, path="/events", count=2)

    report = await rig.look()

    assert (report.confirmed, report.unfinished) == (1, None)


async def test_after_a_look_that_ended_early_the_next_comes_soon(rig: Rig) -> None:
    one = await rig.delivered("u_1")
    await rig.fault(status=500, path="/events")
    assert (await rig.look()).unfinished
    await rig.fault()
    looker = rig.looker(every_s=3600.0)

    rig.at += MINUTE - 1
    await looker._look_and_wait()
    assert (await rig.now_is(one)).status is LeadStatus.DELIVERED
    rig.at += 1
    await looker._look_and_wait()
    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED


async def test_a_lead_that_is_asked_for_by_itself_is_checked_once(rig: Rig) -> None:
    one = await rig.delivered("u_1")
    late = list(rig.dub.leads)
    rig.dub.leads.clear()
    await rig.look()
    assert (await rig.look()).missing == 1
    # Older than what the list is read again for.
    rig.dub.leads.extend(late)

    report = await rig.look()

    assert (report.checked, report.confirmed) == (1, 1)
    assert (await rig.now_is(one)).status is LeadStatus.CONFIRMED


async def test_more_than_one_look_asks_for_are_asked_for_soon(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "AT_ONCE", 2)
    for number in range(3):
        await rig.delivered(f"u_{number}")
    rig.dub.leads.clear()

    report = await rig.look()
    assert (report.missing, report.unfinished) == (2, reconcile.MORE)
    report = await rig.look(after_ms=MINUTE)
    assert (report.missing, report.unfinished) == (3, None)


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Ten events a page, so that a test need not make hundreds."""
    for module in (events, reconcile):
        monkeypatch.setattr(module, "PAGE", 10)
    return 10


@pytest.mark.usefixtures("short_pages")
async def test_many_pages_are_read_to_their_end(rig: Rig) -> None:
    ones = [await rig.delivered(f"u_{number}") for number in range(25)]
    report = await rig.look()
    assert report.confirmed == len(ones)
    assert await rig.outbox.counts() == {LeadStatus.CONFIRMED: len(ones)}


async def test_the_doubts_of_one_time_share_its_pages(
    rig: Rig, short_pages: int
) -> None:
    """As after an outage of Dub's: the pages of its time are read once for all."""
    for number in range(4 * short_pages):
        await rig.delivered(f"u_{number}")
    doubts = [await rig.in_doubt(f"d_{n}", cut="before") for n in range(4)]

    report = await rig.look()

    pages = 4 + 1  # and the empty one behind
    by_customer = len(doubts) * 2
    assert report.settled == len(doubts)
    assert report.checked == 4 * short_pages + len(doubts)
    assert report.calls <= 2 * pages + 2 + by_customer
    for one in doubts:
        assert (await rig.now_is(one)).status is LeadStatus.WAITING


@pytest.mark.usefixtures("short_pages")
async def test_a_page_that_a_deleted_link_leaves_short_is_not_the_last(
    rig: Rig,
) -> None:
    """Else the list would be asked for each of the others by itself."""
    await rig.delivered("u_0", click_id=rig.dub.click(rig.dub.links["grace"]).id)
    for number in range(1, 15):
        await rig.delivered(f"u_{number}")
    rig.dub.links["grace"] = replace(rig.dub.links["grace"], gone=True)

    report = await rig.look()

    assert (report.confirmed, report.missing) == (14, 1)
    alone = [it for it in rig.dub.calls if it.path == "/customers"]
    assert len(alone) == 1


async def test_one_relay_at_a_time_looks_and_one_that_died_holds_up_nobody(
    rig: Rig,
) -> None:
    first, second = rig.looker(), rig.looker()
    await first._take(None)
    with pytest.raises(BusyError):
        await second.once()
    rig.at += LEASE_MS
    await second.once()


async def test_a_look_goes_on_where_the_last_one_ended(rig: Rig) -> None:
    await rig.delivered("u_1")
    first = await rig.look()
    calls = len(rig.dub.calls)
    second = await rig.look()
    listed = [call for call in list(rig.dub.calls)[calls:] if call.path == "/events"]
    assert (first.confirmed, second.confirmed, len(listed)) == (1, 0, 2)


async def test_a_call_that_is_being_made_is_left_to_its_delivery(rig: Rig) -> None:
    made = await rig.put("u_1")
    [claim] = await rig.outbox.claim(1, rig.at, 2 * DAY)
    await rig.outbox.begin_recording(
        claim, [attempt(at=rig.at, step=Step.PROVE)], rig.at, 2 * DAY
    )
    report = await rig.look()
    assert (await entry(rig.outbox, made.id)).status is LeadStatus.SENDING
    assert report.checked == 0


@pytest.mark.usefixtures("short_pages")
async def test_a_look_that_ended_early_goes_on_from_its_last_page(rig: Rig) -> None:
    for number in range(15):
        await rig.delivered(f"u_{number}")
        rig.at += 1000
    await rig.fault(status=500, path="/events", count=1)
    rig.at += HOUR
    looker = rig.looker()
    listed = looker._dub.list_events  # the first page is read, the second is not
    pages: list[str] = []

    async def second_fails(query: Any, signature: str) -> Any:
        pages.append(query["page"])
        if query["page"] == "1":
            await rig.fault()
        else:
            await rig.fault(status=500, path="/events", count=1)
        return await listed(query, signature)

    looker._dub = type("Dub", (), {"list_events": staticmethod(second_fails)})()
    report = await looker.once()
    assert (report.confirmed, report.unfinished is None) == (10, False)

    report = await rig.look(after_ms=MINUTE)
    assert report.confirmed == 5


async def test_what_is_missing_is_an_alert_that_names_the_link(
    rig: Rig, tmp_path: Path
) -> None:
    await rig.delivered("u_1")
    rig.dub.leads.clear()
    await rig.look()
    terms = AlertTerms(
        url="http://127.0.0.1:9/",
        keys=(b"k" * 24,),
        limits=AlertLimits(backlog_s=3600.0, disk_free=0.0),
        every_s=1.0,
        retry_base_s=1.0,
        host="host",
    )

    async def overview() -> Overview:
        return await look(rig.outbox, tmp_path / "relay.spill", 600, rig.at)

    await AlertWatcher(
        rig.outbox, overview, terms, clock=rig.now, roll=lambda: 0.5
    ).once()

    [alert] = await rig.outbox.alerts()
    said = json.loads(alert.body)
    assert said["type"] == "leads.missing_at_dub"
    assert said["data"]["missing"] == 1
    assert said["data"]["links"] == ["acme.link/ada"]
