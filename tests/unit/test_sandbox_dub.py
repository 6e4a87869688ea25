"""The sandbox's Dub behaves as the real one does, traps included."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.dub.track_lead import (
    LeadFields,
    fold_event,
)
from relay.core.leads import Mode
from relay.sandbox.app import sample_links
from relay.sandbox.dub import DEDUPE_MS, SAME_CLICK_MS, Around, Dub
from relay.sandbox.model import RefusalError
from relay.sandbox.state import announcement, sign, state_json

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


class TestTakingALead:
    def test_it_is_recorded_with_its_click_link_and_partner(self, dub: Dub) -> None:
        click_id = minted(dub)

        answer = dub.track_lead(
            lead(click_id, event_quantity=3, metadata={"plan": "pro"}),
            Around(signed="yes"),
        )

        assert answer.body["click"] == {"id": click_id}
        assert set(answer.body["link"]) == {
            "id",
            "domain",
            "key",
            "shortLink",
            "url",
            "partnerId",
            "programId",
            "tenantId",
            "externalId",
        }
        (recorded,) = state_json(dub)["leads"]
        assert recorded == {
            "id": recorded["id"],
            "customerExternalId": "u_1",
            "customerName": recorded["customerName"],
            "eventName": "Sign Up",
            "clickId": click_id,
            "linkKey": "ada",
            "partner": "Ada",
            "quantity": 3,
            "metadata": {"plan": "pro"},
            "at": "2023-11-14T22:13:20.000Z",
            "signed": "yes",
        }

    def test_a_customer_without_a_name_is_called_by_the_email_or_by_chance(
        self, dub: Dub
    ) -> None:
        click_id = minted(dub)

        by_email = dub.track_lead(lead(click_id, customer_email="a@example.com"))
        by_chance = dub.track_lead(lead(click_id, customer_external_id="u_2"))

        assert by_email.body["customer"]["name"] == "a@example.com"
        assert len(by_chance.body["customer"]["name"].split(" ")) == 3

    def test_a_customer_is_never_updated_by_a_later_lead(self, dub: Dub) -> None:
        first = minted(dub, "ada")
        dub.track_lead(lead(first, customer_name="First", event_name="One"))

        answer = dub.track_lead(
            lead(minted(dub, "grace"), customer_name="Second", event_name="Two")
        )

        assert answer.body["customer"]["name"] == "First"
        assert answer.body["link"]["key"] == "grace"
        assert dub.customers["u_1"].click.id == first

    def test_a_bad_avatar_later_removes_the_good_one(self, dub: Dub) -> None:
        click_id = minted(dub)
        dub.track_lead(lead(click_id, customer_avatar="https://a.example/x.png"))
        assert dub.customers["u_1"].avatar is not None

        dub.track_lead(lead(click_id, event_name="Two", customer_avatar="nothing"))

        assert dub.customers["u_1"].avatar is None

    def test_an_avatar_that_fails_at_a_second_upload_is_gone_too(
        self, dub: Dub
    ) -> None:
        fields = lead(minted(dub), customer_avatar="https://a.example/x.png")
        dub.track_lead(replace(fields, mode=Mode.DEFERRED))
        assert dub.customers["u_1"].avatar is not None

        dub.track_lead(fields, Around(avatar_fails=True))

        assert dub.customers["u_1"].avatar is None


class TestTheDedupeTrap:
    @pytest.mark.parametrize("again", ["Sign Up", "sign up", "sign-up", "SIGN-UP"])
    def test_a_folded_repeat_answers_with_no_link_and_records_nothing(
        self, dub: Dub, again: str
    ) -> None:
        click_id = minted(dub)
        dub.track_lead(lead(click_id))

        answer = dub.track_lead(lead(click_id, event_name=again))

        assert answer.body["link"] is None
        assert answer.body["customer"]["externalId"] == "u_1"
        assert len(dub.leads) == 1

    @pytest.mark.parametrize(
        "other",
        [
            {"event_name": "Signup"},
            {"customer_external_id": "U_1"},
        ],
    )
    def test_another_event_or_customer_is_another_lead(
        self, dub: Dub, other: dict[str, str]
    ) -> None:
        click_id = minted(dub)
        dub.track_lead(lead(click_id))

        assert dub.track_lead(lead(click_id, **other)).lead is not None

    def test_the_key_is_claimed_before_the_click_is_looked_up(self, dub: Dub) -> None:
        refusal = refused(dub, lead("unknown"))
        assert refusal.code == "not_found"
        assert refusal.message == "Click event not found for clickId: unknown"

        answer = dub.track_lead(lead(minted(dub)))

        assert answer.body["link"] is None
        assert dub.leads == []

    def test_a_duplicate_of_nobody_known_makes_a_customer_up(self, dub: Dub) -> None:
        refused(dub, lead("unknown"))

        answer = dub.track_lead(
            lead("unknown", customer_name="Ada", customer_avatar="https://a.example/x")
        )

        customer = answer.body["customer"]
        assert customer["name"] == "Ada"
        assert customer["avatar"].startswith("https://dubassets.com/customers/cus_")
        assert dub.customers == {}

    def test_the_key_lives_for_seven_days_and_not_a_moment_longer(
        self, dub: Dub, clock: Clock
    ) -> None:
        click_id = minted(dub)
        dub.track_lead(lead(click_id))

        clock.now += DEDUPE_MS - 1
        assert dub.track_lead(lead(click_id)).lead is None
        clock.now += 1
        assert dub.track_lead(lead(click_id)).lead is not None

    def test_a_crash_after_the_claim_loses_the_lead(self, dub: Dub) -> None:
        click_id = minted(dub)

        assert refused(dub, lead(click_id), Around(crash=True)).code == (
            "internal_server_error"
        )

        assert dub.track_lead(lead(click_id)).body["link"] is None
        assert dub.leads == []

    def test_an_id_too_long_for_the_database_is_a_500_after_the_claim(
        self, dub: Dub
    ) -> None:
        fields = lead(minted(dub), customer_external_id="x" * 192)

        assert refused(dub, fields).code == "internal_server_error"
        assert dub.track_lead(fields).body["link"] is None
        fits = lead(minted(dub), customer_external_id="y" * 191)
        assert dub.track_lead(fits).lead is not None

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["u_1", "u_2"]),
                st.sampled_from(["Sign Up", "sign-up", "Other"]),
                st.sampled_from(list(Mode)),
                st.booleans(),
            ),
            max_size=20,
        )
    )
    def test_one_customers_one_event_counts_once_in_whatever_order(
        self, calls: list[tuple[str, str, Mode, bool]]
    ) -> None:
        dub = new_dub(Clock())
        click_id = minted(dub)
        codes: set[tuple[str, bool]] = set()
        for customer, event, mode, known in calls:
            fields = lead(
                click_id if known else "unknown",
                customer_external_id=customer,
                event_name=event,
                mode=mode,
            )
            try:
                answer = dub.track_lead(fields)
            except RefusalError as refusal:
                codes.add((refusal.code, known))
                continue
            linked = answer.body["link"] is not None
            assert (answer.lead is not None) == (linked and mode is not Mode.DEFERRED)

        assert codes <= {("not_found", False)}
        keys = [
            (it.customer.external_id, fold_event(it.event_name)) for it in dub.leads
        ]
        assert len(keys) == len(set(keys))


class TestDeferred:
    def test_it_keeps_customer_and_click_and_counts_nothing(self, dub: Dub) -> None:
        fields = lead(minted(dub), mode=Mode.DEFERRED)

        first, again = dub.track_lead(fields), dub.track_lead(fields)

        assert first.body == again.body
        assert first.body["link"]["key"] == "ada"
        assert list(dub.customers) == ["u_1"]
        assert dub.leads == []

    def test_it_may_fail_and_be_repeated(self, dub: Dub) -> None:
        refused(dub, lead("unknown", mode=Mode.DEFERRED))
        click_id = minted(dub)
        dub.track_lead(lead(click_id, mode=Mode.DEFERRED))

        assert dub.track_lead(lead(click_id)).lead is not None

    @pytest.mark.parametrize("absent", ["", None])
    def test_a_lead_without_a_click_takes_the_customers_first(
        self, dub: Dub, absent: str | None
    ) -> None:
        click_id = minted(dub, "grace")
        dub.track_lead(lead(click_id, mode=Mode.DEFERRED))

        answer = dub.track_lead(lead(absent))

        assert answer.body["click"] == {"id": click_id}
        assert [it.click.id for it in dub.leads] == [click_id]

    def test_without_an_earlier_click_it_is_refused_and_claims_nothing(
        self, dub: Dub
    ) -> None:
        refusal = refused(dub, lead(""))

        assert refusal.code == "bad_request"
        assert refusal.message.startswith("The `clickId` property was not provided")
        assert dub.track_lead(lead(minted(dub))).lead is not None


class TestLinksAndClicks:
    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("gone", "Link not found for clickId: {}"),
            ("foreign", "Link link_foreign for clickId {} does not belong to"),
            ("disabled", "Link link_disabled for clickId {} is disabled, lead not"),
        ],
    )
    def test_a_broken_link_is_a_404_of_its_own(
        self, dub: Dub, key: str, message: str
    ) -> None:
        click_id = minted(dub, key)

        refusal = refused(dub, lead(click_id))

        assert refusal.code == "not_found"
        assert refusal.message.startswith(message.format(click_id))

    def test_a_click_is_sixteen_letters_and_digits(self, dub: Dub) -> None:
        click_id = minted(dub)

        assert len(click_id) == 16
        assert click_id.isascii()
        assert click_id.isalnum()

    def test_one_visitors_click_within_the_hour_is_the_same(
        self, dub: Dub, clock: Clock
    ) -> None:
        ada = dub.links["ada"]
        first = dub.click(ada, "someone").id

        clock.now += SAME_CLICK_MS - 1
        assert dub.click(ada, "someone").id == first
        assert dub.click(ada, "other").id != first
        assert dub.click(dub.links["grace"], "someone").id != first
        clock.now += 1
        assert dub.click(ada, "someone").id != first

    def test_a_late_click_is_not_found_until_it_is_old_enough(
        self, dub: Dub, clock: Clock
    ) -> None:
        fields = lead(minted(dub), mode=Mode.DEFERRED)
        late = Around(click_delay=5000)

        clock.now += 4999
        assert "Click event not found" in refused(dub, fields, late).message
        clock.now += 1
        assert dub.track_lead(fields, late).body["link"] is not None

    def test_a_reset_brings_the_first_links_back(self, dub: Dub) -> None:
        click_id = minted(dub)
        dub.track_lead(lead(click_id))
        dub.links.clear()

        dub.reset()

        assert "ada" in dub.links
        assert not dub.clicks
        assert not dub.leads
        assert dub.track_lead(lead(minted(dub))).lead is not None


def test_a_webhook_carries_the_lead_and_dubs_signature(dub: Dub) -> None:
    click_id = minted(dub)
    answer = dub.track_lead(lead(click_id))
    assert answer.lead is not None

    envelope = announcement(dub, answer.lead)

    assert envelope["event"] == "lead.created"
    assert envelope["data"]["customer"]["externalId"] == "u_1"
    assert envelope["data"]["click"]["id"] == click_id
    body = json.dumps(envelope).encode()
    expected = hmac.new(b"whsec_abc", body, hashlib.sha256).hexdigest()
    assert sign("whsec_abc", body) == expected
