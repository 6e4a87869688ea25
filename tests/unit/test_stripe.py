"""Stripe's events: what each is worth, to whom, and under which name.

The events are as Stripe's own fixtures show them (github.com/stripe/openapi), cut to
what may matter, in the shapes of API versions before and since 2025-03-31 ("basil").
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from relay.core.providers.account import Ignored, NewAccount, ProviderSale
from relay.core.providers.stripe import AS_DUBS_APP, StripeTerms, stripe
from tests.support.provider_rig import stripe_session

CLICK = "hQWlM2kPzX9aBcDe"
REFERENCE = {"client_reference_id": f"dub_id_{CLICK}"}
BOTH = {"dubCustomerExternalId": "u_1", "dubClickId": CLICK}
AS_LEADS = StripeTerms(references="lead")


def event(kind: str, about: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {
        "id": "evt_1",
        "object": "event",
        "created": 1_732_171_669,
        "type": kind,
        "data": {"object": about, **data},
    }


def checkout(**changes: Any) -> dict[str, Any]:
    document = stripe_session("u_1", None)
    document["data"]["object"] |= {"metadata": {}} | changes
    return document


def invoice(**changes: Any) -> dict[str, Any]:
    """An invoice of a subscription, since "basil"."""
    about = {
        "id": "in_7",
        "object": "invoice",
        "amount_due": 2380,
        "amount_paid": 2380,
        "billing_reason": "subscription_cycle",
        "currency": "eur",
        "customer": "cus_1",
        "customer_email": "ada@example.com",
        "customer_name": "Ada Lovelace",
        "lines": {"object": "list", "data": [line("prod_1")]},
        "metadata": {},
        "parent": {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {
                "metadata": {"dubCustomerExternalId": "u_1", "plan": "pro"},
                "subscription": "sub_1",
            },
        },
        "total": 2380,
        "total_excluding_tax": 2000,
    }
    return event("invoice.paid", about | changes)


def line(product: str) -> dict[str, Any]:
    return {
        "id": "il_1",
        "object": "line_item",
        "amount": 2000,
        "metadata": {},
        "pricing": {
            "price_details": {"price": "price_1", "product": product},
            "type": "price_details",
        },
        "quantity": 1,
    }


def subscription(**changes: Any) -> dict[str, Any]:
    item = {"id": "si_1", "object": "subscription_item", "quantity": 3}
    about = {
        "id": "sub_1",
        "object": "subscription",
        "customer": "cus_1",
        "items": {"object": "list", "data": [item, item | {"quantity": 9}]},
        "metadata": {"dubCustomerExternalId": "u_1"},
        "status": "trialing",
        "trial_end": 1_733_381_269,
    }
    return event("customer.subscription.created", about | changes)


def read(document: dict[str, Any], terms: StripeTerms = AS_DUBS_APP) -> NewAccount:
    found = stripe(document, "", terms)
    assert isinstance(found, NewAccount), found
    return found


def ignored(document: dict[str, Any], terms: StripeTerms = AS_DUBS_APP) -> str:
    found = stripe(document, "", terms)
    assert isinstance(found, Ignored), found
    return found.reason


def sale_of(document: dict[str, Any], terms: StripeTerms = AS_DUBS_APP) -> ProviderSale:
    sale = read(document, terms).sale
    assert sale is not None
    return sale


class TestRecipes:
    def test_a_reference_is_a_direct_sale_as_in_dubs_app(self) -> None:
        signup = read(checkout(**REFERENCE))

        assert (signup.trusted, signup.writable) == ((), (CLICK,))
        assert not signup.lead
        assert signup.sale == ProviderSale(
            {
                "customerExternalId": "cus_1",
                "amount": 2198,
                "currency": "usd",
                "paymentProcessor": "stripe",
                "invoiceId": "in_1",
                "eventName": "Purchase",
            },
            direct=True,
        )

    def test_a_reference_is_a_lead_and_a_sale_where_the_operator_wants_it(self) -> None:
        signup = read(checkout(**REFERENCE), AS_LEADS)

        assert signup.lead
        assert "eventName" not in signup.person
        assert signup.sale is not None
        assert not signup.sale.direct

    def test_a_guest_is_known_by_the_address(self) -> None:
        signup = read(checkout(**REFERENCE, customer=None))

        assert signup.person["customerExternalId"] == "ada@example.com"

    def test_a_known_customer_makes_a_sale_alone(self) -> None:
        signup = read(checkout(metadata={"dubCustomerExternalId": "u_1"}))

        assert not signup.lead
        assert signup.sale is not None
        assert not signup.sale.direct
        assert signup.sale.body["customerExternalId"] == "u_1"

    def test_both_on_a_session_make_a_lead_and_a_sale(self) -> None:
        signup = read(checkout(metadata=BOTH))

        assert signup.lead
        assert signup.sale is not None
        assert not signup.sale.direct

    def test_a_customer_with_both_makes_a_lead(self) -> None:
        customer = {"id": "cus_1", "email": "ada@example.com", "metadata": BOTH}

        signup = read(event("customer.created", customer))

        assert signup.trusted == (CLICK,)
        assert signup.person["customerExternalId"] == "u_1"
        assert signup.sale is None

    @pytest.mark.parametrize(
        ("before", "counts"),
        [({"metadata": {"dubClickId": None}}, True), ({"email": "a@b.co"}, False)],
    )
    def test_an_update_counts_only_if_it_brought_the_click(
        self, before: dict[str, Any], *, counts: bool
    ) -> None:
        updated = event(
            "customer.updated", {"metadata": BOTH}, previous_attributes=before
        )

        assert isinstance(stripe(updated, ""), NewAccount) is counts

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({}, "dubCustomerExternalId"),
            ({"client_reference_id": "team_1"}, "dubCustomerExternalId"),
            ({"client_reference_id": "dub_id_"}, "dubCustomerExternalId"),
            ({**REFERENCE, "mode": "setup"}, "setup"),
            ({**REFERENCE, "customer": None, "customer_details": None}, "neither"),
        ],
    )
    def test_a_checkout_that_is_not_ours_is_ignored_with_what_to_do(
        self, change: dict[str, Any], reason: str
    ) -> None:
        assert reason in ignored(checkout(**change))

    def test_another_event_is_ignored(self) -> None:
        assert "payout.paid" in ignored(event("payout.paid", {}))


class TestAmounts:
    def test_tax_is_no_part_of_a_sale(self) -> None:
        details = {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 351}

        sale = sale_of(checkout(**REFERENCE, total_details=details))

        assert (sale.body["amount"], sale.body["currency"]) == (1847, "usd")

    def test_with_adaptive_pricing_the_sites_own_currency_counts(self) -> None:
        converted = {
            "amount_subtotal": 2000,
            "amount_total": 2000,
            "fx_rate": "1.099",
            "source_currency": "usd",
        }

        sale = sale_of(
            checkout(**REFERENCE, currency="eur", currency_conversion=converted)
        )

        assert (sale.body["amount"], sale.body["currency"]) == (2000, "usd")

    @pytest.mark.parametrize(
        ("currency", "stripes", "dubs"),
        [
            ("jpy", 1580, 1580),
            ("isk", 500, 500),
            ("huf", 500, 500),
            ("kwd", 5120, 512),
            ("TND", 10, 1),
            ("ugx", 500, 5),
        ],
    )
    def test_amounts_are_in_the_units_that_dub_takes_them_for(
        self, currency: str, stripes: int, dubs: int
    ) -> None:
        """Dub reckons in hundredths or, of sixteen currencies, in whole units."""
        bought = checkout(
            **REFERENCE,
            currency=currency,
            amount_total=stripes,
            total_details={"amount_tax": 0},
        )
        converted = checkout(
            **REFERENCE,
            amount_total=9,
            currency_conversion={"amount_total": stripes, "source_currency": currency},
        )
        renewed = invoice(
            currency=currency,
            amount_paid=stripes,
            total=stripes,
            total_excluding_tax=stripes,
        )

        for document in (bought, converted, renewed):
            body = sale_of(document).body
            assert (body["amount"], body["currency"]) == (dubs, currency.lower())

    @pytest.mark.parametrize(
        "change",
        [
            {"payment_status": "no_payment_required", "amount_total": 0},
            {"amount_total": 0},
            {"amount_total": 351, "total_details": {"amount_tax": 351}},
            {
                "amount_total": 0,
                "currency_conversion": {"source_currency": "usd", "amount_total": 9},
            },
        ],
    )
    @pytest.mark.parametrize("terms", [AS_DUBS_APP, AS_LEADS])
    def test_a_checkout_of_nothing_is_a_lead_so_that_later_payments_count(
        self, change: dict[str, Any], terms: StripeTerms
    ) -> None:
        signup = read(checkout(**REFERENCE, **change), terms)

        assert (signup.lead, signup.sale) == (True, None)

    @pytest.mark.parametrize(
        ("change", "amount"),
        [
            ({}, 2000),
            ({"total_excluding_tax": None}, 2380),
            # Credit paid a part: Dub's app takes what was paid.
            ({"amount_paid": 1380}, 1380),
            ({"total_excluding_tax": 2380}, 2380),
        ],
    )
    def test_an_invoice_counts_without_tax_where_all_of_it_was_paid(
        self, change: dict[str, Any], amount: int
    ) -> None:
        sale = sale_of(invoice(**change))

        assert (sale.body["amount"], sale.body["currency"]) == (amount, "eur")

    @pytest.mark.parametrize(
        "change",
        [
            {"amount_paid": 0, "total": 0, "total_excluding_tax": 0},
            {"amount_paid": 0},
            {"amount_paid": -5, "total": -5, "total_excluding_tax": -5},
        ],
    )
    def test_an_invoice_of_nothing_is_no_sale(self, change: dict[str, Any]) -> None:
        assert "Nothing was paid" in ignored(invoice(**change))


class TestNamesAndInvoices:
    @pytest.mark.parametrize(
        ("mode", "name"),
        [("payment", "Purchase"), ("subscription", "Subscription creation")],
    )
    def test_a_checkout_is_named_as_dubs_app_names_it(
        self, mode: str, name: str
    ) -> None:
        assert sale_of(checkout(**REFERENCE, mode=mode)).body["eventName"] == name

    def test_a_recurring_payment_is_named_as_dubs_app_names_it(self) -> None:
        once = invoice(parent=None, metadata={"dubCustomerExternalId": "u_1"})

        assert sale_of(invoice()).body["eventName"] == "Invoice paid"
        assert sale_of(once).body["eventName"] == "Purchase"

    @pytest.mark.parametrize(
        ("change", "invoice_id"),
        [
            ({"payment_intent": "pi_1"}, "in_1"),
            ({"invoice": None, "payment_intent": "pi_1"}, "pi_1"),
            ({"invoice": None, "id": "cs_1"}, "cs_1"),
        ],
    )
    def test_a_sale_is_known_by_what_a_refund_names(
        self, change: dict[str, Any], invoice_id: str
    ) -> None:
        assert sale_of(checkout(**REFERENCE, **change)).body["invoiceId"] == invoice_id

    def test_the_first_invoice_and_its_checkout_are_one_sale(self) -> None:
        first = sale_of(invoice(id="in_1", billing_reason="subscription_create"))
        bought = sale_of(checkout(metadata={"dubCustomerExternalId": "u_1"}))

        same = ("customerExternalId", "invoiceId")
        assert [first.body[it] for it in same] == [bought.body[it] for it in same]


class TestInvoices:
    def test_a_recurring_payment_is_a_sale_of_the_sites_customer(self) -> None:
        signup = read(invoice())

        assert not signup.lead
        assert signup.sale is not None
        assert not signup.sale.known
        assert signup.sale.body["customerExternalId"] == "u_1"
        assert signup.person["metadata"] == {"plan": "pro", "productId": "prod_1"}

    @pytest.mark.parametrize(
        "change",
        [
            {"subscription_details": {"metadata": {"dubCustomerExternalId": "u_2"}}},
            {"metadata": {"dubCustomerExternalId": "u_2"}},
            {"metadata": {"dubCustomerId": "u_2"}},
            {"lines": {"data": [{"metadata": {"dubCustomerExternalId": "u_2"}}]}},
        ],
    )
    def test_every_place_where_a_version_of_stripes_names_the_customer(
        self, change: dict[str, Any]
    ) -> None:
        sale = sale_of(invoice(parent=None, **change))

        assert sale.body["customerExternalId"] == "u_2"
        assert not sale.known

    def test_who_is_named_by_stripe_alone_must_be_known_to_the_relay(self) -> None:
        sale = sale_of(invoice(parent=None))

        assert sale.known
        assert sale.body["customerExternalId"] == "cus_1"

    @pytest.mark.parametrize(
        ("change", "plan"),
        [
            ({}, "pro"),
            ({"lines": {"data": [line("p") | {"metadata": {"plan": "a"}}]}}, "a"),
            ({"metadata": {"plan": "b"}}, "b"),
        ],
    )
    def test_of_two_places_that_say_the_same_the_nearer_counts(
        self, change: dict[str, Any], plan: str
    ) -> None:
        metadata = read(invoice(**change)).person["metadata"]

        assert isinstance(metadata, dict)
        assert metadata["plan"] == plan

    def test_and_of_lines_the_first(self) -> None:
        lines = [line("p") | {"metadata": {"plan": plan}} for plan in ("a", "b")]
        metadata = read(invoice(lines={"data": lines})).person["metadata"]

        assert metadata == {"plan": "a", "productId": "p"}

    def test_the_product_is_named_where_there_is_but_one(self) -> None:
        many = {"data": [line("prod_1"), line("prod_2")]}
        old = {"data": [{"price": {"product": "prod_3"}}]}
        own = {"productId": "mine", "dubCustomerExternalId": "u_1"}

        assert read(invoice(lines=many)).person["metadata"] == {"plan": "pro"}
        assert read(invoice(lines=old)).person["metadata"] == {
            "plan": "pro",
            "productId": "prod_3",
        }
        kept = read(invoice(metadata=own)).person["metadata"]
        assert kept == {"plan": "pro", "productId": "mine"}

    def test_an_invoice_of_nobody_is_ignored(self) -> None:
        assert "names no customer" in ignored(invoice(parent=None, customer=None))


class TestMetadata:
    def test_a_sessions_own_metadata_goes_on_to_dub_without_ids_and_clicks(
        self,
    ) -> None:
        own = {"plan": "pro", "seats": "3"}
        ours = {"dubTicket": "a.b", "dub_id": CLICK, "dubCustomerId": "u_1"}

        signup = read(checkout(metadata=own | ours | BOTH))

        assert signup.person["metadata"] == own

    def test_without_any_there_is_none(self) -> None:
        assert "metadata" not in read(checkout(metadata=BOTH)).person


class TestTrials:
    def test_a_trial_is_a_lead_for_each_seat_of_the_plan(self) -> None:
        signup = read(subscription(), StripeTerms(trials="seats"))

        assert signup.person["eventName"] == "Started Trial"
        assert signup.person["eventQuantity"] == 3
        assert signup.person["customerExternalId"] == "u_1"
        assert signup.earlier_click
        assert not signup.known

    def test_or_one_lead_whatever_its_seats(self) -> None:
        signup = read(subscription(), StripeTerms(trials="lead"))

        assert "eventQuantity" not in signup.person

    def test_a_trial_may_bring_its_click(self) -> None:
        signup = read(subscription(metadata=BOTH), StripeTerms(trials="lead"))

        assert signup.trusted == (CLICK,)

    def test_who_is_named_by_stripe_alone_must_be_known_to_the_relay(self) -> None:
        signup = read(subscription(metadata={}), StripeTerms(trials="lead"))

        assert signup.known
        assert signup.person["customerExternalId"] == "cus_1"

    @pytest.mark.parametrize(
        ("change", "terms", "reason"),
        [
            ({}, AS_DUBS_APP, "hooks.stripe.trials"),
            ({"status": "active"}, StripeTerms(trials="lead"), "without a trial"),
            (
                {"metadata": {}, "customer": None},
                StripeTerms(trials="lead"),
                "subscription names no customer",
            ),
        ],
    )
    def test_what_is_no_trial_is_ignored_with_the_reason(
        self, change: dict[str, Any], terms: StripeTerms, reason: str
    ) -> None:
        assert reason in ignored(subscription(**change), terms)

    @pytest.mark.parametrize(
        ("terms", "name"),
        [(AS_DUBS_APP, None), (StripeTerms(trials="seats"), "Started Trial")],
    )
    def test_a_trial_by_payment_link_is_a_lead_with_the_links_click(
        self, terms: StripeTerms, name: str | None
    ) -> None:
        free = {"amount_total": 0, "payment_status": "no_payment_required"}

        signup = read(checkout(**REFERENCE, mode="subscription", **free), terms)

        assert signup.lead
        assert signup.writable == (CLICK,)
        assert signup.person.get("eventName") == name


class TestDelayedPayments:
    def test_nothing_counts_before_the_money_is_there(self) -> None:
        assert "async_payment_succeeded" in ignored(
            checkout(**REFERENCE, payment_status="unpaid")
        )

    def test_then_it_is_a_direct_sale(self) -> None:
        document = checkout(**REFERENCE, invoice=None)
        document["type"] = "checkout.session.async_payment_succeeded"

        assert sale_of(document).direct

    def test_as_a_lead_and_a_sale_the_lead_comes_with_the_checkout(self) -> None:
        unpaid = read(checkout(**REFERENCE, payment_status="unpaid"), AS_LEADS)
        document = checkout(**REFERENCE)
        document["type"] = "checkout.session.async_payment_succeeded"
        paid = read(document, AS_LEADS)

        assert (unpaid.lead, unpaid.sale) == (True, None)
        assert not paid.lead
        assert paid.sale is not None


class TestRefunds:
    CHARGE: Final = {
        "id": "ch_1",
        "object": "charge",
        "amount": 2198,
        "amount_refunded": 2198,
        "billing_details": {"email": "ada@example.com", "name": "Ada Lovelace"},
        "currency": "usd",
        "customer": "cus_1",
        "payment_intent": "pi_1",
        "refunded": True,
    }

    def test_a_refund_names_its_invoice_before_basil(self) -> None:
        sale = sale_of(event("charge.refunded", self.CHARGE | {"invoice": "in_1"}))

        assert (sale.refund, sale.unnamed) == (True, False)
        assert sale.body["invoiceId"] == "in_1"
        assert sale.body["customerExternalId"] == "cus_1"

    def test_and_a_payment_without_an_invoice_itself(self) -> None:
        sale = sale_of(event("charge.refunded", self.CHARGE | {"invoice": None}))

        assert (sale.body["invoiceId"], sale.unnamed) == ("pi_1", False)

    def test_since_basil_it_names_the_payment_alone(self) -> None:
        sale = sale_of(event("charge.refunded", self.CHARGE))

        assert (sale.body["invoiceId"], sale.unnamed) == ("pi_1", True)

    def test_of_a_guest_too(self) -> None:
        guest = self.CHARGE | {"customer": None}
        nobody = guest | {"billing_details": {"email": None}, "payment_intent": None}

        for charge, known_as in ((guest, "ada@example.com"), (nobody, "ch_1")):
            sale = sale_of(event("charge.refunded", charge))
            assert sale.body["customerExternalId"] == known_as

    def test_a_refund_of_a_part_is_for_a_person(self) -> None:
        part = self.CHARGE | {
            "refunded": False,
            "amount_refunded": 1,
            "invoice": "in_1",
        }

        sale = sale_of(event("charge.refunded", part))

        assert (sale.refund, sale.by_hand, sale.unnamed) == (True, "part", False)
        assert (sale.body["amount"], sale.body["invoiceId"]) == (1, "in_1")

    DISPUTE: Final = {
        "id": "dp_1",
        "object": "dispute",
        "amount": 1000,
        "charge": "ch_1",
        "currency": "kwd",
        "payment_intent": "pi_1",
        "reason": "general",
        "status": "lost",
    }

    def test_a_lost_dispute_is_for_a_person_and_names_the_payment(self) -> None:
        signup = read(event("charge.dispute.closed", self.DISPUTE))

        assert signup.sale is not None
        assert not signup.lead
        assert (signup.sale.refund, signup.sale.unnamed) == (True, True)
        assert signup.sale.by_hand == "dispute"
        assert signup.sale.body == {
            "customerExternalId": "pi_1",
            "amount": 100,
            "currency": "kwd",
            "paymentProcessor": "stripe",
            "invoiceId": "pi_1",
            "eventName": "Dispute lost",
        }

    def test_of_a_charge_without_a_payment_intent_the_charge(self) -> None:
        old = self.DISPUTE | {"payment_intent": None}

        assert sale_of(event("charge.dispute.closed", old)).body["invoiceId"] == "ch_1"

    @pytest.mark.parametrize("status", ["won", "warning_closed", "prevented", None])
    def test_a_dispute_that_was_not_lost_changes_nothing(
        self, status: str | None
    ) -> None:
        ended = self.DISPUTE | {"status": status}

        assert "not lost" in ignored(event("charge.dispute.closed", ended))
