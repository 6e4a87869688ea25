"""Signatures: published vectors, key rotation, clocks, and garbage of all kinds."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import signing
from relay.core.providers import schemes
from relay.core.signing import (
    BadSignatureError,
    MissingHeaderError,
    SignatureMismatchError,
    StaleTimestampError,
)

# The example of the Standard Webhooks libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1_614_265_330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

KEYS = signing.parse_webhook_secrets(SECRET)
OTHER_KEYS = (b"another key of enough bytes",)
NOW = TIMESTAMP * 1000 + 999

# Text as it comes out of header bytes: lone surrogates included.
any_text = st.text(st.characters(exclude_categories=()))


def headers(**changes: str) -> dict[str, str]:
    """The vector's headers; ``id``, ``timestamp``, ``signature`` may be changed."""
    signed = {"id": MESSAGE_ID, "timestamp": str(TIMESTAMP), "signature": SIGNATURE}
    return {f"webhook-{name}": value for name, value in (signed | changes).items()}


class TestStandardWebhooks:
    def test_the_published_vector_is_an_hmac_of_id_timestamp_and_body(self) -> None:
        key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        content = f"{MESSAGE_ID}.{TIMESTAMP}.".encode() + BODY
        digest = hmac.new(key, content, hashlib.sha256).digest()

        assert f"v1,{base64.b64encode(digest).decode()}" == SIGNATURE

    def test_the_published_vector_is_signed_and_verified(self) -> None:
        signed = signing.sign_webhook(KEYS, MESSAGE_ID, TIMESTAMP, BODY)

        assert signed == headers()
        assert signing.verify_webhook(KEYS, signed, BODY, NOW) == MESSAGE_ID

    @pytest.mark.parametrize("off", [-300, 0, 300])
    def test_clocks_may_differ_by_five_minutes_either_way(self, off: int) -> None:
        now = NOW + off * 1000

        assert signing.verify_webhook(KEYS, headers(), BODY, now) == MESSAGE_ID

    @pytest.mark.parametrize("off", [-301, 301])
    def test_but_not_by_more(self, off: int) -> None:
        with pytest.raises(StaleTimestampError):
            signing.verify_webhook(KEYS, headers(), BODY, NOW + off * 1000)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("id", ""),
            ("id", "a" * 257),
            ("id", "msg 1"),
            ("id", "msg\n1"),
            ("id", "msg\x7f"),
            ("id", "mség"),
            ("id", "msg.1614265330"),
            ("timestamp", ""),
            ("timestamp", "-1614265330"),
            ("timestamp", "+1614265330"),
            ("timestamp", " 1614265330"),
            ("timestamp", "1614265330.0"),
            ("timestamp", "1_614_265_330"),
            (
                "timestamp",
                "\u0661\u0666\u0661\u0664\u0662\u0666\u0665\u0663\u0663\u0660",
            ),
            ("timestamp", "9" * 16),
            ("timestamp", "9" * 5000),
            ("signature", ""),
        ],
    )
    def test_a_header_that_is_absent_or_has_not_its_form_is_named(
        self, name: str, value: str
    ) -> None:
        with pytest.raises(MissingHeaderError, match=f"webhook-{name}"):
            signing.verify_webhook(KEYS, headers(**{name: value}), BODY, NOW)

    @pytest.mark.parametrize("name", ["id", "timestamp", "signature"])
    def test_a_missing_header_is_named(self, name: str) -> None:
        given = headers()
        del given[f"webhook-{name}"]

        with pytest.raises(MissingHeaderError, match=f"webhook-{name} is missing"):
            signing.verify_webhook(KEYS, given, BODY, NOW)

    @pytest.mark.parametrize(
        "signature",
        [
            " ",
            "v1",
            "v1,",
            "v1,!!!",
            "v1,Zm9v",
            "garbage",
            "é",
            "\ud800",
            SIGNATURE.removeprefix("v1,"),
            SIGNATURE.replace("v1,", "v1a,"),
            SIGNATURE.replace("v1,", "v2,"),
            SIGNATURE.replace("v1,", "V1,"),
            SIGNATURE[:-1],
            SIGNATURE + "=",
            SIGNATURE + ",",
        ],
    )
    def test_what_is_no_v1_signature_of_ours_fits_nothing(self, signature: str) -> None:
        with pytest.raises(SignatureMismatchError):
            signing.verify_webhook(KEYS, headers(signature=signature), BODY, NOW)

    @pytest.mark.parametrize(
        "signature",
        [
            f"v1,AAAA {SIGNATURE}",
            f"{SIGNATURE} v1,AAAA",
            f"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw {SIGNATURE}",
            f"  {SIGNATURE}  ",
        ],
    )
    def test_one_fitting_signature_among_several_is_enough(
        self, signature: str
    ) -> None:
        given = headers(signature=signature)

        assert signing.verify_webhook(KEYS, given, BODY, NOW) == MESSAGE_ID

    def test_every_key_verifies_and_the_first_signs(self) -> None:
        rotated = (*OTHER_KEYS, *KEYS)
        signed = signing.sign_webhook(rotated, MESSAGE_ID, TIMESTAMP, BODY)

        assert signing.verify_webhook(rotated, headers(), BODY, NOW) == MESSAGE_ID
        assert signing.verify_webhook(OTHER_KEYS, signed, BODY, NOW) == MESSAGE_ID
        with pytest.raises(SignatureMismatchError):
            signing.verify_webhook(KEYS, signed, BODY, NOW)

    def test_without_keys_nothing_fits(self) -> None:
        with pytest.raises(SignatureMismatchError):
            signing.verify_webhook((), headers(), BODY, NOW)

    @pytest.mark.parametrize(
        ("changed", "body"),
        [
            ({"id": "msg_2"}, BODY),
            ({"timestamp": str(TIMESTAMP + 1)}, BODY),
            ({"timestamp": f"0{TIMESTAMP}"}, BODY),
            ({}, BODY + b" "),
            ({}, b""),
        ],
    )
    def test_id_timestamp_and_body_are_all_signed(
        self, changed: dict[str, str], body: bytes
    ) -> None:
        with pytest.raises(SignatureMismatchError):
            signing.verify_webhook(KEYS, headers(**changed), body, NOW)

    @given(st.binary(), st.text("abc_-", min_size=1), st.integers(0, 10**12))
    def test_whatever_is_signed_is_verified(
        self, body: bytes, message_id: str, timestamp: int
    ) -> None:
        signed = signing.sign_webhook(KEYS, message_id, timestamp, body)

        found = signing.verify_webhook(KEYS, signed, body, timestamp * 1000)
        assert found == message_id

    @given(
        st.dictionaries(
            st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]),
            st.one_of(any_text, st.just(str(TIMESTAMP)), st.just(SIGNATURE)),
        ),
        st.binary(),
    )
    def test_garbage_ends_in_a_bad_signature_and_nothing_else(
        self, given: dict[str, str], body: bytes
    ) -> None:
        with pytest.raises(BadSignatureError):
            signing.verify_webhook(KEYS, given, body, NOW)

    def test_an_id_that_could_not_be_verified_is_not_signed(self) -> None:
        with pytest.raises(ValueError, match="webhook-id"):
            signing.sign_webhook(KEYS, "a.b", TIMESTAMP, BODY)


class TestConstantTime:
    """What fits is not to be learnt from how long it takes: nothing is skipped."""

    @pytest.fixture
    def compared(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
        compared: list[tuple[bytes, bytes]] = []
        compare = hmac.compare_digest

        def counted(ours: bytes, theirs: bytes) -> bool:
            compared.append((ours, theirs))
            return compare(ours, theirs)

        monkeypatch.setattr(hmac, "compare_digest", counted)
        return compared

    def test_every_key_is_tried_with_every_signature(
        self, compared: list[tuple[bytes, bytes]]
    ) -> None:
        keys = (*KEYS, *OTHER_KEYS, b"a third key of enough bytes")
        given = headers(signature=f"{SIGNATURE} v1,AAAA")

        signing.verify_webhook(keys, given, BODY, NOW)

        assert len(compared) == 3 * 2

    @pytest.mark.parametrize(("header", "unit"), [("stripe", 1), ("workos", 1000)])
    def test_so_are_those_of_a_stamped_header(
        self, compared: list[tuple[bytes, bytes]], header: str, unit: int
    ) -> None:
        verify = getattr(schemes, header)
        stamp = str(TIMESTAMP * unit)
        fits = hmac.new(b"one", f"{stamp}.".encode() + BODY, "sha256").hexdigest()
        given = {f"{header}-signature": f"t={stamp},v1={fits},v1=00"}

        verify((b"one", b"two"), given, BODY, NOW)

        assert len(compared) == 2 * 2

    def test_so_are_dubs_secrets(self, compared: list[tuple[bytes, bytes]]) -> None:
        fits = hmac.new(b"one", BODY, "sha256").hexdigest()

        assert signing.verify_dub_webhook(("one", "two", "three"), fits, BODY)
        assert len(compared) == 3


class TestSecrets:
    def test_a_list_keeps_its_order_and_loses_its_spaces(self) -> None:
        assert signing.parse_secrets(" new , old ") == ("new", "old")

    @pytest.mark.parametrize("text", ["", " ", "a,", ",a", "a,,b"])
    def test_an_empty_secret_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="empty"):
            signing.parse_secrets(text)

    def test_webhook_secrets_are_base64_after_their_prefix(self) -> None:
        bare = base64.b64encode(b"k" * 25).decode()

        assert signing.parse_webhook_secrets(
            f"{SECRET}, whsec_{bare}, whsec_{bare.rstrip('=')}"
        ) == (KEYS[0], b"k" * 25, b"k" * 25)
        # As Supabase shows them.
        assert signing.parse_webhook_secrets(f"v1,{SECRET}|v1,whsec_{bare}") == (
            *(KEYS[0], b"k" * 25),
        )

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "empty"),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "does not start with whsec_"),
            (f"{SECRET},WHSEC_abcd", "secret 2 does not start with whsec_"),
            ("whsk_s3cr3t", "a key of a pair"),
            ("whsec_", "holds 0 bytes"),
            ("whsec_c2hvcnQ=", "holds 5 bytes. Use at least 24."),
            ("whsec_s3cr3t!s3cr3t", "not base64"),
            ("whsec_é", "not base64"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=x", "not base64"),
        ],
    )
    def test_a_webhook_secret_that_is_none_is_named_but_not_told(
        self, text: str, why: str
    ) -> None:
        with pytest.raises(ValueError, match=why) as caught:
            signing.parse_webhook_secrets(text)

        assert "s3cr3t" not in str(caught.value)
        assert caught.value.__cause__ is None


class TestDubWebhook:
    SECRET = "whsec_0123456789abcdef0123456789abcdef"

    def test_it_is_hex_hmac_keyed_with_the_whole_secret(self) -> None:
        signature = hmac.new(self.SECRET.encode(), BODY, hashlib.sha256).hexdigest()

        assert signing.verify_dub_webhook((self.SECRET,), signature, BODY)
        assert not signing.verify_dub_webhook((self.SECRET,), signature, BODY + b" ")
        assert not signing.verify_dub_webhook((self.SECRET[6:],), signature, BODY)
        assert not signing.verify_dub_webhook((self.SECRET,), signature.upper(), BODY)
        assert signing.verify_dub_webhook(("another", self.SECRET), signature, BODY)
        assert not signing.verify_dub_webhook((), signature, BODY)

    @given(any_text, st.binary())
    def test_garbage_is_no_signature(self, signature: str, body: bytes) -> None:
        assert not signing.verify_dub_webhook((self.SECRET,), signature, body)


class TestCalls:
    def test_a_signed_call_gives_back_its_leads_id(self) -> None:
        value = signing.sign_call(["s"], "lead_1", BODY, NOW)

        assert signing.verify_call(["s"], value, BODY, NOW) == "lead_1"

    def test_the_first_secret_signs_and_all_verify(self) -> None:
        value = signing.sign_call(["new", "old"], "lead_1", BODY, NOW)

        assert signing.verify_call(["newer", "new"], value, BODY, NOW) == "lead_1"
        with pytest.raises(SignatureMismatchError):
            signing.verify_call(["old"], value, BODY, NOW)

    def test_the_body_is_signed(self) -> None:
        value = signing.sign_call(["s"], "lead_1", BODY, NOW)

        with pytest.raises(SignatureMismatchError, match="another body"):
            signing.verify_call(["s"], value, BODY + b" ", NOW)

    @pytest.mark.parametrize("off", [-300, 300])
    def test_it_is_good_for_five_minutes_either_way(self, off: int) -> None:
        value = signing.sign_call(["s"], "lead_1", BODY, NOW)

        now = NOW + off * 1000
        assert signing.verify_call(["s"], value, BODY, now) == "lead_1"

    @pytest.mark.parametrize("off", [-301, 301])
    def test_and_not_for_more(self, off: int) -> None:
        value = signing.sign_call(["s"], "lead_1", BODY, NOW)

        with pytest.raises(StaleTimestampError):
            signing.verify_call(["s"], value, BODY, NOW + off * 1000)

    def test_a_missing_signature_is_named(self) -> None:
        with pytest.raises(MissingHeaderError, match="Relay-Signature"):
            signing.verify_call(["s"], "", BODY, NOW)

    @pytest.mark.parametrize("claim", [None, [], {"id": 1, "sha256": "x"}, {"id": "a"}])
    def test_a_signed_claim_of_another_shape_is_no_call(self, claim: object) -> None:
        value = signing.sign_json(claim, ["s"], "dub-relay.call", NOW)

        with pytest.raises(SignatureMismatchError):
            signing.verify_call(["s"], value, BODY, NOW)

    @given(any_text.filter(bool))
    def test_garbage_ends_in_a_bad_signature_and_nothing_else(self, value: str) -> None:
        with pytest.raises(BadSignatureError):
            signing.verify_call(["s"], value, BODY, NOW)

    def test_the_signature_is_made_with_sha256(self) -> None:
        value = signing.sign_call(["s"], "lead_1", BODY, NOW)
        content, _, signature = value.rpartition(".")
        key = hashlib.sha256(b"dub-relay.call" + b"signer" + b"s").digest()
        expected = hmac.new(key, content.encode(), hashlib.sha256).digest()

        assert base64.urlsafe_b64decode(signature + "=") == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.just("k"), inner),
    max_leaves=10,
)


class TestSignedJson:
    @given(json_values)
    def test_any_json_comes_back_in_url_safe_text(self, value: object) -> None:
        text = signing.sign_json(value, ["s"], "p", NOW)

        assert signing.verify_json(text, ["s"], "p", NOW, max_age_s=1) == value
        assert text.replace("-", "").replace("_", "").replace(".", "").isalnum()

    def test_it_has_one_purpose(self) -> None:
        text = signing.sign_json(1, ["s"], "p", NOW)

        with pytest.raises(SignatureMismatchError):
            signing.verify_json(text, ["s"], "q", NOW, max_age_s=1)

    def test_a_payload_that_is_no_json_is_refused_although_signed(self) -> None:
        # Another program with the same secret and purpose could have made it.
        serializer = signing._serializer(("s",), "p", NOW // 1000)
        value = serializer.make_signer("p").sign(base64.b64encode(b"{"))

        with pytest.raises(SignatureMismatchError):
            signing.verify_json(value.decode(), ["s"], "p", NOW, max_age_s=1)

    def test_it_has_one_spelling(self) -> None:
        text = signing.sign_json("\u2033" * 3, ["s"], "p", NOW)
        assert {"_", "-"} & set(text)

        for other in (text.replace("_", "/").replace("-", "+"), text + "!", text + "="):
            with pytest.raises(SignatureMismatchError):
                signing.verify_json(other, ["s"], "p", NOW, max_age_s=1)

    def test_the_content_can_be_read_by_anybody(self) -> None:
        text = signing.sign_json({"a": 1}, ["s"], "p", NOW)

        payload = text.partition(".")[0]
        assert json.loads(base64.urlsafe_b64decode(payload + "==")) == {"a": 1}
