"""The sandbox's links, sales, faults, rates and hostnames."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, Final

import pytest

from relay.core.dub.track_lead import LeadFields
from relay.core.leads import Mode
from relay.sandbox.app import sample_links
from relay.sandbox.browser import Visitor, final_url, visit
from relay.sandbox.dub import DEDUPE_MS, Around, Dub
from relay.sandbox.faults import Faults, KnobError, Options
from relay.sandbox.model import Link, RefusalError
from relay.sandbox.sales import track_sale
from relay.sandbox.wire import SERVER, Circuit, Meter, require_hostname

START = 1_700_000_000_000
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0.0.0 Safari/537.36"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dub(clock: Clock) -> Dub:
    return new_dub(clock)


def new_dub(clock: Clock) -> Dub:
    links = sample_links("http://localhost:8080/?plan=pro")
    # Repeatable ids: nothing here is a secret.
    rng = Random(1)  # noqa: S311 - a test's names and ids
    return Dub(links, clock=clock, rng=rng, domain="acme.link")


def minted(dub: Dub, key: str = "ada") -> str:
    return dub.click(dub.links[key]).id


def lead(click_id: str | None, **changes: Any) -> LeadFields:
    given_fields = {"event_name": "Sign Up", "customer_external_id": "u_1"}
    return LeadFields(click_id=click_id, **(given_fields | changes))


def refused(dub: Dub, fields: LeadFields, around: Around | None = None) -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        dub.track_lead(fields, around or Around())
    return caught.value


class TestShortLinks:
    def visitor(self, **changes: Any) -> Visitor:
        asked = {"address": "10.0.0.1", "agent": BROWSER, "method": "GET"}
        return Visitor(**(asked | changes))

    def test_a_browsers_click_is_recorded(self, dub: Dub) -> None:
        assert visit(dub, dub.links["ada"], self.visitor()) in dub.clicks

    @pytest.mark.parametrize(
        "changes",
        [
            {"agent": "curl/8.5.0"},
            {"agent": "Python/3.11 aiohttp/3.14.5"},
            {"agent": BROWSER.replace("Chrome", "HeadlessChrome")},
            {"agent": "Googlebot/2.1"},
            {"method": "HEAD"},
            {"no_track": True},
            {"query": (("dub-no-track", "1"),)},
            {"query": (("bot", "1"),)},
        ],
    )
    def test_what_is_not_counted_gets_an_id_that_leads_nowhere(
        self, dub: Dub, changes: dict[str, Any]
    ) -> None:
        click_id = visit(dub, dub.links["ada"], self.visitor(**changes))

        assert len(click_id) == 16
        assert dub.clicks == {}
        assert dub.phantoms == 1

    def test_fresh_makes_every_click_a_new_one(self, dub: Dub) -> None:
        ada = dub.links["ada"]

        same = {visit(dub, ada, self.visitor()) for _ in range(3)}
        fresh = {visit(dub, ada, self.visitor(fresh=True)) for _ in range(3)}

        assert (len(same), len(fresh)) == (1, 3)

    @pytest.mark.parametrize(
        ("url", "query", "expected"),
        [
            ("https://a.example/", (), "https://a.example/?dub_id=ID&via=ada"),
            (
                "https://a.example/p?plan=pro#top",
                (("utm", "x y"),),
                "https://a.example/p?plan=pro&dub_id=ID&via=ada&utm=x+y#top",
            ),
            (
                "https://a.example/?dub_id=old",
                (("dub_id", "chosen"), ("qr", "1")),
                "https://a.example/?dub_id=chosen&via=ada",
            ),
            (
                "https://a.example/",
                (("qr", "code"), ("redir_url", "x"), ("skip_deeplink_preview", "1")),
                "https://a.example/?dub_id=ID&via=ada&qr=code",
            ),
            (
                "https://a.example/",
                (("dub-no-track", "1"), ("utm", "x")),
                "https://a.example/?via=ada&utm=x",
            ),
            (
                "https://pay.example/?dub_client_reference_id=1",
                (),
                "https://pay.example/?client_reference_id=dub_id_ID&via=ada",
            ),
        ],
    )
    def test_the_destination_keeps_its_parameters_and_gets_the_click(
        self, url: str, query: tuple[tuple[str, str], ...], expected: str
    ) -> None:
        link = Link("link_ada", "ada", "partner-ada", url, "Ada")

        assert final_url(link, "ID", query) == expected

    def test_a_plain_link_hands_no_click_on(self) -> None:
        link = Link("link_p", "p", "p", "https://a.example/?x=1", tracked=False)

        assert final_url(link, "ID", ()) == "https://a.example/?x=1"


SALE: Final = {"customerExternalId": "u_1", "amount": 5000}


class TestSales:
    def test_a_sale_of_nobody_known_is_answered_with_nulls(self, dub: Dub) -> None:
        assert track_sale(dub, SALE).body == {
            "eventName": "Purchase",
            "customer": None,
            "sale": None,
        }
        assert dub.sales == []

    def test_a_sale_after_its_lead_counts(self, dub: Dub) -> None:
        dub.track_lead(lead(minted(dub)))

        answer = track_sale(dub, SALE)

        assert answer.body["sale"]["amount"] == 5000
        assert dub.customers["u_1"].sales == 1

    def test_only_an_invoice_makes_a_repeat_harmless(self, dub: Dub) -> None:
        dub.track_lead(lead(minted(dub)))

        for _ in range(2):
            track_sale(dub, {**SALE, "invoiceId": "in_1"})
        assert len(dub.sales) == 1
        for _ in range(2):
            track_sale(dub, SALE)
        assert len(dub.sales) == 3

    @pytest.mark.parametrize(
        ("mode", "found"), [(Mode.ASYNC, False), (Mode.WAIT, True)]
    )
    def test_only_wait_lets_a_sale_follow_at_once(
        self, dub: Dub, mode: Mode, *, found: bool
    ) -> None:
        dub.track_lead(lead(minted(dub), mode=mode), Around(lead_delay=1000))

        if found:
            assert track_sale(dub, SALE).body["sale"] is not None
            return
        with pytest.raises(RefusalError, match="and leadEventName: null"):
            track_sale(dub, SALE)

    def test_a_direct_sale_makes_customer_and_lead(self, dub: Dub) -> None:
        answer = track_sale(
            dub, {**SALE, "clickId": minted(dub), "metadata": {"productId": "p"}}
        )

        assert [it.event_name for it in dub.leads] == [
            "Direct sale tracking lead event"
        ]
        assert dub.leads[0].metadata == {"productId": "p"}
        assert answer.recorded == (dub.leads[0], dub.sales[0])

    def test_an_invoice_is_known_for_seven_days(self, dub: Dub, clock: Clock) -> None:
        dub.track_lead(lead(minted(dub)))
        first = track_sale(dub, {**SALE, "invoiceId": "in_1"})

        clock.now += DEDUPE_MS - 1
        again = track_sale(dub, {**SALE, "invoiceId": "in_1", "amount": 1})
        clock.now += 1
        late = track_sale(dub, {**SALE, "invoiceId": "in_1"})

        assert (again.body, again.recorded) == (first.body, ())
        assert late.recorded == (dub.sales[1],)

    def test_a_sale_counts_for_the_link_of_the_latest_lead(self, dub: Dub) -> None:
        dub.track_lead(lead(minted(dub, "ada")))
        dub.track_lead(lead(minted(dub, "grace"), event_name="Demo"))

        track_sale(dub, SALE)
        track_sale(dub, {**SALE, "leadEventName": "Sign Up"})

        assert [it.click.link_key for it in dub.sales] == ["grace", "ada"]

    @pytest.mark.parametrize("direct", [True, False])
    @pytest.mark.parametrize(
        ("how", "whose", "message"),
        [
            ("gone", "", "Link not found for {}"),
            ("foreign", " ", "Link link_ada for {} does not belong to the workspace"),
            ("disabled", " ", "Link link_ada for {} is disabled, sale not tracked"),
        ],
    )
    def test_a_broken_link_is_a_404_that_names_click_or_customer(
        self, dub: Dub, how: str, whose: str, message: str, *, direct: bool
    ) -> None:
        click_id = minted(dub)
        sale = {**SALE, "clickId": click_id}
        if not direct:
            dub.track_lead(lead(click_id))
        broken: dict[str, Any] = {how: True}
        dub.links["ada"] = replace(dub.links["ada"], **broken)

        with pytest.raises(RefusalError) as caught:
            track_sale(dub, sale)

        named = f"clickId{whose or ': '}{click_id}"
        if not direct:
            named = f"customer {dub.customers['u_1'].id}"
        assert caught.value.message == message.format(named)
        assert not dub.sales

    @pytest.mark.parametrize(
        ("amount", "currency", "kept"),
        [
            (800, "eur", (1000, "usd")),
            (333, "EUR", (416, "usd")),
            (1250, "jpy", (1000, "usd")),
            (1250, "usd", (1250, "usd")),
            (1250, "xts", (1250, "xts")),
        ],
    )
    def test_amounts_are_kept_in_dollars(
        self, dub: Dub, amount: int, currency: str, kept: tuple[int, str]
    ) -> None:
        dub.track_lead(lead(minted(dub)))

        answer = track_sale(dub, {**SALE, "amount": amount, "currency": currency})

        sale = answer.body["sale"]
        assert (sale["amount"], sale["currency"]) == kept
        assert dub.customers["u_1"].sale_amount == kept[0]

    def test_nothing_for_nothing_but_a_direct_one_makes_its_customer(
        self, dub: Dub
    ) -> None:
        answer = track_sale(dub, {**SALE, "amount": 0, "clickId": minted(dub)})

        assert answer.body["sale"] is None
        assert (len(dub.leads), len(dub.sales)) == (1, 0)

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ([], "unprocessable_entity"),
            ({"amount": 1}, "bad_request"),
            ({"customerExternalId": "u", "amount": -1}, "unprocessable_entity"),
            ({"customerExternalId": "u", "amount": True}, "unprocessable_entity"),
            ({"customerExternalId": 1, "amount": 1}, "unprocessable_entity"),
            (
                {"customerExternalId": "u", "amount": 1, "paymentProcessor": "cash"},
                "unprocessable_entity",
            ),
            (
                {"customerExternalId": "u", "amount": 1, "metadata": []},
                "unprocessable_entity",
            ),
        ],
    )
    def test_a_bad_sale_is_refused(self, dub: Dub, body: object, code: str) -> None:
        with pytest.raises(RefusalError) as caught:
            track_sale(dub, body)

        assert caught.value.code == code


class TestFaults:
    def statuses(self, faults: Faults, calls: int, step: str = "record") -> list[Any]:
        return [faults.take("/track/lead", step).status for _ in range(calls)]

    def test_counted_faults_follow_each_other_then_the_lasting_one_rules(self) -> None:
        faults = Faults()
        faults.add({"status": 503, "count": 2})
        faults.add({"status": 500})
        faults.add({"status": 429, "count": 1})

        assert self.statuses(faults, 5) == [503, 503, 429, 500, 500]

    def test_different_knobs_hit_the_same_call(self) -> None:
        faults = Faults()
        faults.add({"slow": 2, "count": 1})
        faults.add({"status": 503, "count": 1})

        conditions = faults.take("/track/lead", "record")

        assert (conditions.slow, conditions.status) == (2, 503)
        assert not faults.standing

    def test_step_and_path_narrow_a_fault(self) -> None:
        faults = Faults()
        faults.add({"status": 503, "count": 1, "step": "record"})
        faults.add({"status": 418, "path": "/customers"})

        assert self.statuses(faults, 2, "deferred") == [None, None]
        assert self.statuses(faults, 2, "record") == [503, None]
        assert faults.take("/customers/ext_1", None).status == 418

    def test_a_knob_turned_again_takes_its_own_place(self) -> None:
        faults = Faults()
        faults.add({"key": "revoked"})
        faults.add({"key": "valid"})

        assert faults.take("/track/lead", "record").key == "valid"
        assert [fault.json() for fault in faults.standing] == [
            {"id": 2, "key": "valid"}
        ]

    @pytest.mark.parametrize(
        ("posted", "named"),
        [
            ([], "JSON object"),
            ({}, "no knob"),
            ({"count": 3}, "no knob"),
            ({"stats": 503}, "no knob 'stats'"),
            ({"status": "503"}, "status takes"),
            ({"status": True}, "status takes"),
            ({"hang": -1}, "hang takes"),
            ({"hang": float("inf")}, "hang takes"),
            ({"cut": "sometimes"}, "cut takes before"),
            ({"cut": ["before"]}, "cut takes before"),
            ({"status": 503, "count": 0}, "count takes"),
            ({"status": 503, "step": "first"}, "step takes"),
            ({"retry_after": "1\r\nX: y"}, "retry_after takes"),
        ],
    )
    def test_a_knob_that_does_not_exist_or_fit_is_named(
        self, posted: object, named: str
    ) -> None:
        faults = Faults()

        with pytest.raises(KnobError, match=named):
            faults.add(posted)

        assert not faults.standing

    def test_options_change_all_or_not_at_all(self) -> None:
        options = Options()

        with pytest.raises(KnobError, match="webhook_url takes an http address"):
            options.change({"fresh": True, "webhook_url": "file:///x"})
        assert options.json()["fresh"] is False
        options.change({"fresh": True, "allowed_hostnames": ["a.example"]})
        assert options.json()["fresh"] is True
        assert options.json()["allowed_hostnames"] == ("a.example",)


class TestRateAndHostnames:
    def test_the_rate_is_held_within_any_minute(self) -> None:
        circuit = Circuit("dub_x", "dub_pk_x")

        passed = [
            circuit.count(Meter(SERVER), START + i * 20_000, 2)[0] for i in range(5)
        ]

        assert passed == [True, True, False, True, True]

    def test_events_are_counted_by_the_second_and_apart(self) -> None:
        circuit = Circuit("dub_x", "dub_pk_x")
        events = Meter.of("/events", SERVER)

        passed = [circuit.count(events, START + i * 400, 2)[0] for i in range(5)]
        other, shown = circuit.count(Meter.of("/track/lead", SERVER), START, 1)

        assert passed == [True, True, False, True, True]
        assert (other, shown.remaining) == (True, 0)
        assert circuit.standing(events, START + 5000).headers() == {
            "X-RateLimit-Limit": "4",
            "X-RateLimit-Remaining": "4",
            "X-RateLimit-Reset": str(START + 6000),
            "Retry-After": str(START + 6000),
        }

    def test_times_are_told_in_epoch_milliseconds(self) -> None:
        circuit = Circuit("dub_x", "dub_pk_x")

        _, allowance = circuit.count(Meter(SERVER), START, None)

        assert allowance.headers() == {
            "X-RateLimit-Limit": "1200",
            "X-RateLimit-Remaining": "1199",
            "X-RateLimit-Reset": str(START + 40_000),
            "Retry-After": str(START + 40_000),
        }

    @pytest.mark.parametrize(
        ("allowed", "referer", "origin", "passes"),
        [
            ((), None, None, True),
            (("a.example",), "https://www.a.example/x", None, True),
            (("a.example",), None, "https://a.example", True),
            (("a.example",), "https://b.example/", "https://a.example", False),
            (("a.example",), None, None, False),
            (("*.a.example",), "https://x.a.example/", None, True),
            (("*.a.example",), "https://a.example/", None, False),
            (("*.a.example",), "https://evil-a.example/", None, False),
            (("a.example",), "https://[bad/", None, False),
        ],
    )
    def test_hostnames_are_held_as_dub_holds_them(
        self,
        allowed: tuple[str, ...],
        referer: str | None,
        origin: str | None,
        *,
        passes: bool,
    ) -> None:
        if passes:
            require_hostname(allowed, referer, origin)
            return
        with pytest.raises(RefusalError, match="is not included in the allowed"):
            require_hostname(allowed, referer, origin)
