"""`POST /track/sale`: Dub's check in Dub's words, what is sent, what counts once."""

from __future__ import annotations

from typing import Any

import pytest

from relay.core.dub.track_lead import (
    InvalidFieldError,
    keepable,
)
from relay.core.dub.track_sale import (
    PROCESSORS,
    sale_body,
    sale_key,
    sanitise_sale,
    validate_sale,
)
from relay.core.leads import Lead, Sale

LEAST = {"customerExternalId": "u_1", "amount": 4900}

FULL = LEAST | {
    "currency": "EUR",
    "eventName": "Invoice paid",
    "paymentProcessor": "stripe",
    "invoiceId": "in_1",
    "metadata": {"plan": "pro"},
    "leadEventName": "Sign Up",
    "clickId": " hQWlMv8sTQaYcUbR ",
    "customerName": " Ada ",
    "customerEmail": "ada@example.com",
    "customerAvatar": "https://example.com/ada.png",
}


TEXT_EXPECTED = "Invalid input: expected string, received"
PROCESSOR_EXPECTED = (
    'Invalid option: expected one of "stripe"|"shopify"|"polar"|"paddle"|"apple"'
    '|"revenuecat"|"dub"|"custom"'
)


def issue(change: dict[str, Any] | object) -> str:
    """The text of what is refused."""
    body = LEAST | change if isinstance(change, dict) else change
    with pytest.raises(InvalidFieldError) as caught:
        validate_sale(body)
    return f"{caught.value.issue.status} {caught.value.issue.text}"


class TestValidate:
    def test_two_fields_are_enough(self) -> None:
        fields = validate_sale(LEAST)

        assert fields.sale == Sale(4900, "usd", "custom", None, None)
        assert (fields.event_name, fields.customer_external_id) == ("Purchase", "u_1")
        assert (fields.click_id, fields.metadata, fields.customer_name) == (None,) * 3

    def test_every_field_is_taken(self) -> None:
        fields = validate_sale(FULL | {"unknown": 1})

        assert fields.sale == Sale(4900, "eur", "stripe", "in_1", "Sign Up")
        assert fields.event_name == "Invoice paid"
        assert fields.metadata == {"plan": "pro"}
        assert fields.customer_name == " Ada "
        assert fields.customer_email == "ada@example.com"
        assert fields.customer_avatar == "https://example.com/ada.png"

    def test_the_click_is_trimmed_and_the_customers_id_is_not(self) -> None:
        fields = validate_sale(FULL | {"customerExternalId": " u "})

        assert fields.click_id == "hQWlMv8sTQaYcUbR"
        assert fields.customer_external_id == " u "

    @pytest.mark.parametrize("processor", PROCESSORS)
    def test_each_processor_of_dubs_is_taken(self, processor: str) -> None:
        sale = validate_sale(LEAST | {"paymentProcessor": processor}).sale

        assert sale is not None
        assert sale.payment_processor == processor

    @pytest.mark.parametrize("amount", [0, 30.0, 2**53 - 1])
    def test_an_amount_is_a_whole_number_from_0(self, amount: float) -> None:
        sale = validate_sale(LEAST | {"amount": amount}).sale

        assert sale is not None
        assert (sale.amount, type(sale.amount)) == (int(amount), int)

    # Dub names it in its own words, whatever is wrong with its type.
    @pytest.mark.parametrize(
        "amount", [None, "4900", True, [], {}, float("inf"), float("nan")]
    )
    def test_what_is_no_number_is_no_amount(self, amount: object) -> None:
        told = issue({"amount": amount})

        assert told == "422 invalid_type: amount: amount is required"

    @pytest.mark.parametrize(
        ("amount", "text"),
        [
            (1.5, "invalid_type: amount: Invalid input: expected int, received number"),
            (-1, "too_small: amount: amount cannot be negative"),
            (
                2**53,
                "too_big: amount: Too big: expected int to be <=9007199254740991",
            ),
            (
                -(2**53),
                "too_small: amount: Too small: expected int to be >=-9007199254740991",
            ),
        ],
    )
    def test_other_numbers_are_refused(self, amount: float, text: str) -> None:
        assert issue({"amount": amount}) == f"422 {text}"

    @pytest.mark.parametrize(
        ("field", "value", "told"),
        [
            ("eventName", "e" * 256, "too_big: Too big: expected string to have <=255"),
            ("eventName", None, f"invalid_type: {TEXT_EXPECTED} null"),
            ("currency", None, f"invalid_type: {TEXT_EXPECTED} null"),
            ("paymentProcessor", "cash", f"invalid_value: {PROCESSOR_EXPECTED}"),
            ("paymentProcessor", None, f"invalid_value: {PROCESSOR_EXPECTED}"),
            ("invoiceId", 7, f"invalid_type: {TEXT_EXPECTED} number"),
            ("leadEventName", [], f"invalid_type: {TEXT_EXPECTED} array"),
            ("metadata", [], "invalid_type: Invalid input: expected record, received"),
            ("customerEmail", "ada@localhost", "invalid_format: Invalid email address"),
        ],
    )
    def test_fields_are_refused_in_dubs_words(
        self, field: str, value: object, told: str
    ) -> None:
        code, message = told.split(": ", 1)

        assert issue({field: value}).startswith(f"422 {code}: {field}: {message}")

    @pytest.mark.parametrize(
        ("body", "received"), [(None, "null"), ([], "array"), ("", "string")]
    )
    def test_the_body_is_an_object(self, body: object, received: str) -> None:
        assert issue(body) == (
            f"422 invalid_type: : Invalid input: expected object, received {received}"
        )

    def test_of_several_issues_the_first_in_dubs_schema_is_told(self) -> None:
        wrong: dict[str, Any] = {
            "customerExternalId": 1,
            "amount": -1,
            "currency": 1,
            "eventName": "e" * 256,
            "paymentProcessor": "cash",
            "invoiceId": 1,
            "metadata": 1,
            "leadEventName": 1,
            "clickId": 1,
            "customerName": "n" * 101,
            "customerEmail": "x",
            "customerAvatar": 1,
            "externalId": 1,
            "customerId": 1,
        }
        told = []
        body = dict(wrong)
        while body:
            field = issue(body).split(": ")[1]
            told.append(field)
            body.pop(field)

        assert told == list(wrong)

    @pytest.mark.parametrize("name", ["externalId", "customerId"])
    def test_the_older_names_of_the_customer_count(self, name: str) -> None:
        body = {"customerExternalId": "", "amount": 1, name: "u_9"}

        assert validate_sale(body).customer_external_id == "u_9"

    def test_no_customer_is_a_bad_request(self) -> None:
        assert issue({"customerExternalId": None}) == (
            "400 customerExternalId is required"
        )


class TestKeepable:
    @pytest.mark.parametrize("bad", ["a\0", "\ud800"])
    @pytest.mark.parametrize("name", ["invoiceId", "clickId", "customerExternalId"])
    def test_what_no_database_holds_is_refused(self, name: str, bad: str) -> None:
        with pytest.raises(InvalidFieldError) as caught:
            keepable(validate_sale(LEAST | {name: bad}))

        assert caught.value.issue.field == name


class TestSanitise:
    def test_what_a_person_typed_loses_no_sale(self) -> None:
        fields, notes = sanitise_sale(
            FULL | {"customerEmail": "nobody", "customerName": "n" * 101}
        )

        assert fields.sale == Sale(4900, "eur", "stripe", "in_1", "Sign Up")
        assert (fields.customer_name, fields.customer_email) == (None, None)
        assert [note.split(" ", 1)[0] for note in notes] == [
            *("customerName", "customerEmail")
        ]

    def test_too_much_metadata_is_left_out_whole(self) -> None:
        fields, notes = sanitise_sale(LEAST | {"metadata": {"a": "m" * 10_000}})

        assert fields.metadata is None
        assert notes[0].startswith("metadata was left out")

    def test_what_the_integrator_writes_must_be_right(self) -> None:
        with pytest.raises(InvalidFieldError, match="amount is required"):
            sanitise_sale({"customerExternalId": "u_1"})


class TestSend:
    def test_a_sale_is_sent_as_it_was_given(self) -> None:
        fields = validate_sale(FULL)
        assert fields.click_id is not None

        body = sale_body(
            Lead(
                id="lead_1",
                source="api",
                click_id=fields.click_id,
                event_name=fields.event_name,
                customer_external_id=fields.customer_external_id,
                created_at=0,
                customer_name=fields.customer_name,
                customer_email=fields.customer_email,
                customer_avatar=fields.customer_avatar,
                metadata=fields.metadata,
                sale=fields.sale,
            )
        )

        trimmed = {"currency": "eur", "clickId": "hQWlMv8sTQaYcUbR"}
        assert body == FULL | trimmed
        assert validate_sale(body) == fields

    def test_what_is_not_there_is_not_sent(self) -> None:
        made = Lead("lead_1", "api", "", "Purchase", "u_1", 0, sale=Sale(0))

        assert sale_body(made) == {
            "customerExternalId": "u_1",
            "amount": 0,
            "currency": "usd",
            "paymentProcessor": "custom",
            "eventName": "Purchase",
        }

    def test_a_lead_is_no_sale(self) -> None:
        with pytest.raises(ValueError, match="not a sale"):
            sale_body(Lead("lead_1", "api", "c", "Sign Up", "u_1", 0))


def test_one_invoice_is_one_sale_whatever_else_is_told() -> None:
    assert sale_key(Sale(1, invoice_id="in_1")) == sale_key(
        Sale(2, "eur", "stripe", "in_1", "Trial")
    )
    assert sale_key(Sale(1, invoice_id="in_1")) != sale_key(Sale(1, invoice_id="in_2"))
