"""Providers: whose signature is believed, and what each event comes to."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.providers import PROVIDERS, schemes
from relay.core.providers.account import (
    Ignored,
    NewAccount,
    PayloadError,
    Provider,
    iso_ms,
)
from relay.core.signing import (
    BadSignatureError,
    MissingHeaderError,
    SignatureMismatchError,
    StaleTimestampError,
    parse_webhook_secrets,
)
from tests.support.provider_rig import (
    BY_NAME,
    SENDERS,
    Sender,
    supabase,
)

CLICK = "hQWlM2kPzX9aBcDe"
NOW = 1_614_265_330_000
ROWS = {row.name: row for row in PROVIDERS}
BOTH = [pytest.param(ROWS[each.name], each, id=each.name) for each in SENDERS]


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def read(name: str, document: dict[str, Any]) -> NewAccount:
    event = ROWS[name].read(document, "msg_1")
    assert isinstance(event, NewAccount), event
    return event


def ignored(name: str, document: dict[str, Any]) -> str:
    event = ROWS[name].read(document, "msg_1")
    assert isinstance(event, Ignored), event
    return event.reason


class TestSignatures:
    def test_every_row_has_a_sender_to_be_tested_with(self) -> None:
        assert [row.name for row in PROVIDERS] == [each.name for each in SENDERS]

    @pytest.mark.parametrize(("row", "sender"), BOTH)
    def test_what_the_providers_library_signs_is_believed(
        self, row: Provider, sender: Sender
    ) -> None:
        headers, body = sender.signed({"a": 1}, at=NOW / 1000)
        keys = row.secrets(sender.secret)

        row.verify(keys, lower(headers), body, NOW)
        for off in (-300_000, 300_000):
            row.verify(keys, lower(headers), body, NOW + off)

    @pytest.mark.parametrize(("row", "sender"), BOTH)
    def test_while_a_secret_is_changed_both_are_believed_in_any_order(
        self, row: Provider, sender: Sender
    ) -> None:
        for secret in (sender.secret, sender.next_secret):
            headers, body = sender.signed({}, secret=secret, at=NOW / 1000)
            for listed in (
                f"{sender.secret},{sender.next_secret}",
                f"{sender.next_secret}, {sender.secret}",
            ):
                row.verify(row.secrets(listed), lower(headers), body, NOW)

    @pytest.mark.parametrize(("row", "sender"), BOTH)
    def test_another_secret_body_or_time_is_not(
        self, row: Provider, sender: Sender
    ) -> None:
        headers, body = sender.signed({"a": 1}, at=NOW / 1000)
        keys = row.secrets(sender.secret)
        sent = lower(headers)

        with pytest.raises(SignatureMismatchError):
            row.verify(row.secrets(sender.next_secret), sent, body, NOW)
        with pytest.raises(SignatureMismatchError):
            row.verify(keys, sent, body + b" ", NOW)
        for off in (-302_000, 302_000):
            with pytest.raises(StaleTimestampError):
                row.verify(keys, sent, body, NOW + off)

    @pytest.mark.parametrize(("row", "sender"), BOTH)
    def test_a_missing_header_is_named(self, row: Provider, sender: Sender) -> None:
        headers, body = sender.signed({}, at=NOW / 1000)
        keys = row.secrets(sender.secret)

        for missing in lower(headers):
            kept = {k: v for k, v in lower(headers).items() if k != missing}
            with pytest.raises(MissingHeaderError, match=missing):
                row.verify(keys, kept, body, NOW)

    @pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in PROVIDERS])
    @given(value=st.text(st.characters(exclude_categories=()), max_size=60))
    def test_garbage_ends_in_a_refusal(self, row: Provider, value: str) -> None:
        names = ("webhook", "svix")
        parts = ("id", "timestamp", "signature")
        headers = {f"{name}-{part}": value for name in names for part in parts}
        headers |= {"stripe-signature": value, "workos-signature": f"t={value},v1=a"}

        with pytest.raises(BadSignatureError):
            row.verify((b"k" * 24,), headers, b"{}", NOW)

    def test_the_published_vector_of_standard_webhooks_under_both_names(self) -> None:
        keys = parse_webhook_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        vector = {
            "id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "timestamp": "1614265330",
            "signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        }
        body = b'{"test": 2432232314}'

        for name, verify in (("webhook", schemes.standard), ("svix", schemes.svix)):
            headers = {f"{name}-{part}": value for part, value in vector.items()}
            assert verify(keys, headers, body, NOW) == vector["id"]

    def test_the_published_vector_of_workos(self) -> None:
        """Of the tests of workos-ruby: its webhook of a new directory user."""
        work = {"type": "work", "value": "blair@foo-corp.com", "primary": True}
        user = {
            "id": "directory_user_01FAEAJCR3ZBZ30D8BD1924TVG",
            "state": "active",
            "emails": [work],
            "idp_id": "00u1e8mutl6wlH3lL4x7",
            "object": "directory_user",
            "username": "blair@foo-corp.com",
            "last_name": "Lunceford",
            "first_name": "Blair",
            "directory_id": "directory_01F9M7F68PZP8QXP8G7X5QRHS7",
            "raw_attributes": {
                "name": {
                    "givenName": "Blair",
                    "familyName": "Lunceford",
                    "middleName": "Elizabeth",
                    "honorificPrefix": "Ms.",
                },
                "title": "Developer Success Engineer",
                "active": True,
                "emails": [work],
                "groups": [],
                "locale": "en-US",
                "schemas": [
                    "urn:ietf:params:scim:schemas:core:2.0:User",
                    "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User",
                ],
                "userName": "blair@foo-corp.com",
                "addresses": [
                    {
                        "region": "CO",
                        "primary": True,
                        "locality": "Steamboat Springs",
                        "postalCode": "80487",
                    }
                ],
                "externalId": "00u1e8mutl6wlH3lL4x7",
                "displayName": "Blair Lunceford",
                "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": {
                    "manager": {"value": "2", "displayName": "Kathleen Chung"},
                    "division": "Engineering",
                    "department": "Customer Success",
                },
            },
        }
        document = {"data": user, "event": "dsync.user.created"}
        body = json.dumps(document, separators=(",", ":")).encode()
        signature = "80f7ab7efadc306eb5797c588cee9410da9be4416782b497bf1e1bf4175fb928"
        headers = {"workos-signature": f"t=1626125972272, v1={signature}"}

        schemes.workos(
            schemes.text_secrets("FrQWzvMo0eqse22Ceyia2uuww"),
            headers,
            body,
            1_626_125_972_272,
        )

    def test_stripe_signs_with_each_secret_while_one_is_rolled(self) -> None:
        import stripe  # noqa: PLC0415 - loads slowly

        def v1(secret: str) -> str:
            make = stripe.WebhookSignature.generate_signature_header
            return str(make("{}", secret, NOW // 1000)).split("v1=")[1]

        header = f"t={NOW // 1000},v1={v1('whsec_old')},v1={v1('whsec_new')},v0=00"

        for secret in ("whsec_old", "whsec_new"):
            keys = schemes.stripe_secrets(secret)
            schemes.stripe(keys, {"stripe-signature": header}, b"{}", NOW)

    @pytest.mark.parametrize(
        "header",
        ["v1=00", "t=1,t=1,v1=00", "t=1", "t=-1,v1=00", "t=1e3,v1=00", "t=1,v0=00"],
    )
    def test_a_stamped_header_must_have_its_form(self, header: str) -> None:
        with pytest.raises(MissingHeaderError, match="malformed"):
            schemes.stripe((b"k",), {"stripe-signature": header}, b"{}", 1000)

    def test_supabase_puts_a_comma_between_two_signatures(self) -> None:
        """As supabase/auth joins them while it has two secrets."""
        sender = BY_NAME["supabase"]
        both = (sender.secret, sender.next_secret)
        made = [sender.signed({}, secret=each, at=NOW / 1000) for each in both]
        headers, body = made[0]
        joined = ", ".join(each["webhook-signature"] for each, _ in made)
        sent = headers | {"webhook-signature": joined}

        for secret in both:
            schemes.standard(parse_webhook_secrets(secret), sent, body, NOW)


class TestSecrets:
    def test_supabases_are_taken_as_supabase_shows_them(self) -> None:
        one, two = BY_NAME["supabase"].secret, BY_NAME["supabase"].next_secret
        keys = parse_webhook_secrets(f"{one},{two}".replace("v1,", ""))

        assert parse_webhook_secrets(f"{one}|{two}") == keys
        assert parse_webhook_secrets(f"{one},{two}") == keys

    @pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in PROVIDERS])
    @pytest.mark.parametrize("written", ["", ",", "v1,", "whsec_a,,whsec_b"])
    def test_an_empty_one_is_an_error(self, row: Provider, written: str) -> None:
        with pytest.raises(ValueError, match=r"secret"):
            row.secrets(written)

    def test_an_api_key_of_stripes_is_told_from_a_signing_secret(self) -> None:
        with pytest.raises(ValueError, match="an API key does not"):
            schemes.stripe_secrets("sk_live_123")


class TestAccounts:
    @pytest.mark.parametrize("sender", SENDERS, ids=lambda each: each.name)
    def test_a_user_is_mapped(self, sender: Sender) -> None:
        signup = read(sender.name, sender.event("u_1", CLICK))

        assert signup.person["customerExternalId"] == "u_1"
        assert signup.person["customerName"] == "Ada Lovelace"
        assert signup.person["customerEmail"] == "ada@example.com"
        assert CLICK in signup.trusted + signup.writable
        assert signup.event_id
        assert signup.at is not None
        assert "ada" not in repr(signup)

    @pytest.mark.parametrize(
        ("name", "place"),
        [
            ("clerk", ("data", "public_metadata")),
            ("clerk", ("data", "private_metadata")),
            ("supabase", ("user", "app_metadata")),
            ("auth0", ("user", "app_metadata")),
            ("workos", ("data", "metadata")),
            ("stytch", ("user", "trusted_metadata")),
            ("firebase", ("user", "customClaims")),
            ("stripe", ("data", "object", "metadata")),
        ],
    )
    @pytest.mark.parametrize("key", ["dubTicket", "dubClickId", "dub_id"])
    def test_what_only_a_server_writes_is_trusted(
        self, name: str, place: tuple[str, ...], key: str
    ) -> None:
        document = BY_NAME[name].event("u_1", None)
        at = document
        for step in place[:-1]:
            at = at[step]
        at[place[-1]] = {**(at.get(place[-1]) or {}), key: CLICK}

        assert read(name, document).trusted == (CLICK,)

    @pytest.mark.parametrize(
        "name", ["clerk", "supabase", "auth0", "stytch", "firebase"]
    )
    def test_what_the_person_may_write_is_kept_apart(self, name: str) -> None:
        signup = read(name, BY_NAME[name].event("u_1", CLICK))

        assert (signup.trusted, signup.writable) == ((), (CLICK,))

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("clerk", {"type": "user.updated"}),
            ("supabase", {"metadata": {"name": "send-email"}}),
            ("auth0", {"trigger": "post-change-password"}),
            ("workos", {"event": "dsync.user.created"}),
            ("stytch", {"action": "UPDATE"}),
            ("stytch", {"object_type": "organization"}),
            ("firebase", {"type": "user.deleted"}),
            ("stripe", {"type": "payout.paid"}),
            ("clerk", {"type": None}),
            ("workos", {"event": ["user.created"]}),
        ],
    )
    def test_another_event_is_ignored(self, name: str, change: dict[str, Any]) -> None:
        assert "is no" in ignored(name, BY_NAME[name].event("u_1", CLICK) | change)

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("clerk", ("data", "id")),
            ("supabase", ("user", "id")),
            ("supabase", ("metadata", "uuid")),
            ("auth0", ("user", "user_id")),
            ("workos", ("data", "id")),
            ("workos", ("id",)),
            ("stytch", ("id",)),
            ("stytch", ("event_id",)),
            ("firebase", ("user", "uid")),
            ("stripe", ("id",)),
        ],
    )
    @pytest.mark.parametrize("value", [None, 7, "", {}])
    def test_what_must_be_there_is_named(
        self, name: str, path: tuple[str, ...], value: object
    ) -> None:
        document = copy.deepcopy(BY_NAME[name].event("u_1", CLICK))
        at = document
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value

        with pytest.raises(PayloadError, match=path[-1]):
            ROWS[name].read(document, "msg_1")

    @pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in PROVIDERS])
    @given(data=st.data())
    def test_no_shape_breaks_a_mapping(
        self, row: Provider, data: st.DataObject
    ) -> None:
        """Any part of a genuine event may be anything at all."""
        document = BY_NAME[row.name].event("u_1", CLICK)
        junk = st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=4,
        )
        at: Any = document
        while isinstance(at, dict) and at:
            key = data.draw(st.sampled_from(sorted(at)))
            if not isinstance(at[key], dict) or data.draw(st.booleans()):
                at[key] = data.draw(junk)
                break
            at = at[key]

        try:
            event = row.read(document, "msg_1")
        except PayloadError:
            return
        assert isinstance(event, NewAccount | Ignored)

    def test_clerks_primary_address_is_chosen_and_no_placeholder_picture(self) -> None:
        document = BY_NAME["clerk"].event("u_1", None)
        document["data"] |= {"primary_email_address_id": None, "has_image": False}

        signup = read("clerk", document)

        assert signup.person["customerEmail"] == "old@example.com"
        assert signup.person["customerAvatar"] is None

    def test_supabase_knows_no_final_id_before_an_oauth_user_is_created(self) -> None:
        before = supabase("u_1", CLICK)
        before["user"]["app_metadata"] = {"provider": "google"}
        after = copy.deepcopy(before)
        after["metadata"]["name"] = "after-user-created"

        assert "callback" in ignored("supabase", before)
        assert read("supabase", after).kind == "after-user-created"

    def test_an_anonymous_user_of_supabases_has_not_signed_up(self) -> None:
        document = supabase("u_1", CLICK)
        document["user"]["is_anonymous"] = True

        assert "anonymous" in ignored("supabase", document)

    @pytest.mark.parametrize("bad", ["evt 1", "evt\x00", "x" * 256, "\ud800"])
    def test_an_events_id_is_one_word_that_every_database_keeps(self, bad: str) -> None:
        document = BY_NAME["workos"].event("u_1", CLICK) | {"id": bad}

        with pytest.raises(PayloadError, match="id: must be"):
            ROWS["workos"].read(document, "")

    def test_auth0s_first_login_is_a_sign_up_and_its_query_may_carry_the_click(
        self,
    ) -> None:
        login = BY_NAME["auth0"].event("u_1", None) | {"trigger": "post-login"}
        first = login | {"logins": 1, "query": {"dubTicket": CLICK}}

        assert read("auth0", first).writable == (CLICK,)
        assert "first login" in ignored("auth0", first | {"logins": 2})
        assert "first login" in ignored("auth0", login)

    def test_a_member_of_stytchs_b2b_is_a_user_too(self) -> None:
        document = BY_NAME["stytch"].event("member_1", None)
        del document["user"]
        document |= {
            "object_type": "member",
            "member": {
                "name": "Ada Lovelace",
                "email_address": "ada@example.com",
                "trusted_metadata": {"dubClickId": CLICK},
            },
        }

        signup = read("stytch", document)

        assert signup.person["customerName"] == "Ada Lovelace"
        assert signup.person["customerEmail"] == "ada@example.com"
        assert signup.trusted == (CLICK,)


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ("2024-11-21T06:47:49.555247073Z", 1_732_171_669_555),
        ("2024-01-02T03:04:05Z", 1_704_164_645_000),
        ("2025-04-29T13:13:24.755552-07:00", 1_745_957_604_755),
        ("2025-04-29T13:13:24", None),
        ("yesterday", None),
        (7, None),
    ],
)
def test_times_are_read_as_providers_write_them(
    written: object, ms: int | None
) -> None:
    assert iso_ms(written) == ms
