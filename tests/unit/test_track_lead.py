"""Dub's field rules, and what the relay forgives.

Expected texts were taken from zod 4.3.5, the version Dub's server runs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.dub.fields import json_depth
from relay.core.dub.track_lead import (
    MAX_METADATA_DEPTH,
    InvalidFieldError,
    LeadFields,
    dedupe_key,
    fold_event,
    is_email,
    js_trim,
    lead_body,
    metadata_length,
    sanitise,
    utf16_len,
    validate,
)
from relay.core.leads import Lead, Mode, Step

GOOD: dict[str, object] = {
    "clickId": "hQWlM1rvZrkqWHgD",
    "eventName": "Sign Up",
    "customerExternalId": "u_1",
}

# A loaded machine must not fail a test of values.
untimed = settings(deadline=None)

any_text = st.text(st.characters(exclude_categories=()))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3)
    ),
    max_leaves=8,
)
any_body = st.fixed_dictionaries(
    {
        "eventName": any_text,
        "customerExternalId": any_text,
    },
    optional={
        "clickId": any_text | scalars,
        "externalId": any_text,
        "customerName": any_text | scalars,
        "customerEmail": st.emails() | scalars,
        "customerAvatar": any_text | scalars,
        "mode": st.sampled_from(["async", "wait", "deferred", "other"]),
        "eventQuantity": st.integers(-1, 101) | scalars,
        "metadata": st.dictionaries(any_text, json_values, max_size=3) | scalars,
    },
)


def issue_of(check: Callable[[], object]) -> str:
    """Give the text of the issue that a check raises."""
    with pytest.raises(InvalidFieldError) as caught:
        check()
    return caught.value.issue.text


def nested(depth: int) -> dict[str, object]:
    """Make an object of so many levels."""
    value: dict[str, object] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


# --- Dub's own check ---


def test_a_full_body_is_read_field_by_field() -> None:
    body = {
        "clickId": " click ",
        "eventName": "\u00a0Sign Up\ufeff",
        "customerExternalId": " u_1\u3000",
        "customerName": " Ann ",
        "customerEmail": "ann@example.com",
        "customerAvatar": "no url at all",
        "mode": "wait",
        "eventQuantity": 3,
        "metadata": {"plan": "pro"},
        "unknown": ["dropped"],
    }

    assert validate(body) == LeadFields(
        click_id="click",
        event_name="Sign Up",
        customer_external_id="u_1",
        customer_name=" Ann ",
        customer_email="ann@example.com",
        customer_avatar="no url at all",
        mode=Mode.WAIT,
        event_quantity=3,
        metadata={"plan": "pro"},
    )


def test_absent_and_null_fields_take_dubs_defaults() -> None:
    nullable = ("clickId", "customerName", "customerEmail", "customerAvatar")
    nulls = dict.fromkeys((*nullable, "eventQuantity", "metadata"))
    expected = LeadFields(
        click_id=None, event_name="Sign Up", customer_external_id="u_1"
    )

    assert validate({**GOOD, **nulls}) == expected
    assert validate({"eventName": "Sign Up", "customerExternalId": "u_1"}) == expected


def test_an_empty_click_id_is_not_an_absent_one() -> None:
    assert validate({**GOOD, "clickId": " "}).click_id == ""


TEXT_EXPECTED = "Invalid input: expected string, received"
NUMBER_EXPECTED = "Invalid input: expected number, received"
WRONG_MODE = 'Invalid option: expected one of "async"|"wait"|"deferred"'
METADATA_TOO_LONG = "Metadata must be less than 10,000 characters when stringified"
UNSTORABLE = "Text holds characters that cannot be stored"

INTEGRATORS_FIELDS = (
    *("clickId", "eventName", "customerExternalId", "mode", "eventQuantity"),
)

BAD_FIELDS: tuple[tuple[str, object, str, str], ...] = (
    ("eventName", None, "invalid_type", f"{TEXT_EXPECTED} null"),
    ("eventName", " \t", "too_small", "eventName is required"),
    (
        *("eventName", "e" * 256, "too_big"),
        "Too big: expected string to have <=255 characters",
    ),
    ("clickId", 1, "invalid_type", f"{TEXT_EXPECTED} number"),
    ("customerExternalId", 42, "invalid_type", f"{TEXT_EXPECTED} number"),
    ("externalId", True, "invalid_type", f"{TEXT_EXPECTED} boolean"),
    ("customerId", [], "invalid_type", f"{TEXT_EXPECTED} array"),
    ("customerName", {}, "invalid_type", f"{TEXT_EXPECTED} object"),
    (
        *("customerName", "\U0001f600" * 51, "too_big"),
        "Too big: expected string to have <=100 characters",
    ),
    ("customerEmail", 1.5, "invalid_type", f"{TEXT_EXPECTED} number"),
    ("customerEmail", "", "invalid_format", "Invalid email address"),
    (
        *("customerEmail", "a" * 95 + "@x.com", "too_big"),
        "Too big: expected string to have <=100 characters",
    ),
    ("customerAvatar", [], "invalid_type", f"{TEXT_EXPECTED} array"),
    ("mode", None, "invalid_value", WRONG_MODE),
    ("mode", "ASYNC", "invalid_value", WRONG_MODE),
    ("mode", [], "invalid_value", WRONG_MODE),
    ("eventQuantity", True, "invalid_type", f"{NUMBER_EXPECTED} boolean"),
    ("eventQuantity", "3", "invalid_type", f"{NUMBER_EXPECTED} string"),
    ("eventQuantity", math.inf, "invalid_type", f"{NUMBER_EXPECTED} number"),
    ("eventQuantity", 10**400, "invalid_type", f"{NUMBER_EXPECTED} number"),
    ("eventQuantity", -(10**400), "invalid_type", f"{NUMBER_EXPECTED} number"),
    (
        *("eventQuantity", -1.5, "invalid_type"),
        "Invalid input: expected int, received number",
    ),
    ("eventQuantity", 0, "too_small", "Too small: expected number to be >0"),
    ("eventQuantity", -0.0, "too_small", "Too small: expected number to be >0"),
    ("eventQuantity", -3, "too_small", "Too small: expected number to be >0"),
    ("eventQuantity", 101, "too_big", "Too big: expected number to be <=100"),
    (
        *("eventQuantity", 2**53, "too_big"),
        "Too big: expected int to be <=9007199254740991",
    ),
    (
        *("eventQuantity", -(2**53), "too_small"),
        "Too small: expected int to be >=-9007199254740991",
    ),
    (
        *("metadata", [], "invalid_type"),
        "Invalid input: expected record, received array",
    ),
    (
        *("metadata", "{}", "invalid_type"),
        "Invalid input: expected record, received string",
    ),
    ("metadata", {"a": "x" * 9_993}, "custom", METADATA_TOO_LONG),
)


@pytest.mark.parametrize(("name", "value", "code", "message"), BAD_FIELDS)
def test_a_bad_field_is_named_in_zods_words(
    name: str, value: object, code: str, message: str
) -> None:
    text = issue_of(lambda: validate({**GOOD, name: value}))

    assert text == f"{code}: {name}: {message}"


def test_only_the_first_issue_is_named_in_the_schemas_order() -> None:
    body = {**GOOD, "metadata": 1, "mode": None, "customerName": 1}

    text = issue_of(lambda: validate(body))

    assert text == f"invalid_type: customerName: {TEXT_EXPECTED} number"


def test_the_customers_older_names_are_checked_last() -> None:
    body = {**GOOD, "externalId": 1, "customerId": 1, "metadata": 1}

    told = [issue_of(lambda: validate(body)).split(": ")[1]]
    del body["metadata"]
    told.append(issue_of(lambda: validate(body)).split(": ")[1])

    assert told == ["metadata", "externalId"]


@pytest.mark.parametrize(
    ("body", "received"),
    [
        ([], "array"),
        (None, "null"),
        ("{}", "string"),
        (1, "number"),
        (False, "boolean"),
    ],
)
def test_a_body_that_is_no_object_has_an_issue_without_a_path(
    body: object, received: str
) -> None:
    expected = f"invalid_type: : Invalid input: expected object, received {received}"

    assert issue_of(lambda: validate(body)) == expected


def test_a_missing_event_name_is_undefined() -> None:
    text = "invalid_type: eventName: Invalid input: expected string, received undefined"

    assert issue_of(lambda: validate({"customerExternalId": "u"})) == text


@pytest.mark.parametrize(
    "given_id", [{}, {"customerExternalId": None}, {"externalId": " "}]
)
def test_a_missing_customer_is_a_400_in_dubs_own_words(
    given_id: dict[str, object],
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        validate({"eventName": "Sign Up", **given_id})

    issue = caught.value.issue
    assert (issue.status, issue.error_code) == (400, "bad_request")
    assert issue.text == str(caught.value) == "customerExternalId is required"
    assert issue.field == "customerExternalId"


def test_zods_issues_come_before_the_missing_customer() -> None:
    with pytest.raises(InvalidFieldError) as caught:
        validate({"eventName": "Sign Up", "metadata": 1})

    assert caught.value.issue.status == 422
    assert caught.value.issue.error_code == "unprocessable_entity"


@pytest.mark.parametrize("check", [validate, lambda body: sanitise(body)[0]])
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"customerExternalId": "a", "externalId": "b", "customerId": "c"}, "a"),
        ({"customerExternalId": " ", "externalId": "b", "customerId": "c"}, "b"),
        ({"customerExternalId": None, "customerId": "c"}, "c"),
    ],
)
def test_the_first_customer_id_that_is_not_empty_counts(
    check: Callable[[dict[str, object]], LeadFields],
    ids: dict[str, object],
    expected: str,
) -> None:
    fields = check({"eventName": "Sign Up", **ids})

    assert fields.customer_external_id == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"eventName": "e" * 255},
        {"customerName": "\U0001f600" * 50},
        {"customerEmail": "a" * 94 + "@x.com"},
        {"metadata": {"a": "x" * 9_992}},
        {"metadata": {}},
        {"eventQuantity": 100},
        # The server route has no limit here; the relay's own rule has.
        {"customerExternalId": "u" * 101},
    ],
)
def test_the_limit_itself_is_allowed(changes: dict[str, object]) -> None:
    validate({**GOOD, **changes})


def test_an_integral_float_is_an_integer_as_in_javascript() -> None:
    quantity = validate({**GOOD, "eventQuantity": 3.0}).event_quantity

    assert (quantity, type(quantity)) == (3, int)


@untimed
@given(json_values)
def test_any_json_is_either_read_or_refused(body: object) -> None:
    try:
        validate(body)
    except InvalidFieldError as error:
        assert error.issue.status in (400, 422)  # noqa: PT017 - raising is optional


# --- the relay's forgiving check ---


def test_a_good_body_is_kept_whole_and_without_notes() -> None:
    body = {
        **GOOD,
        "customerName": "Ann",
        "customerEmail": "ann@example.com",
        "customerAvatar": "https://example.com/a.png",
        "eventQuantity": 2,
        "mode": "deferred",
        "metadata": {"plan": "pro", "seats": [1, 2.5, None]},
    }

    assert sanitise(body) == (validate(body), ())


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (
            *("customerName", "n" * 101),
            "too big: expected string to have <=100 characters",
        ),
        ("customerName", 7, "invalid input: expected string, received number"),
        ("customerName", "a\ud800", "text holds characters that cannot be stored"),
        ("customerEmail", "user@localhost", "invalid email address"),
        ("customerEmail", False, "invalid input: expected string, received boolean"),
        ("customerAvatar", {}, "invalid input: expected string, received object"),
        ("customerAvatar", "a\x00b", "text holds characters that cannot be stored"),
        ("metadata", ["x"], "invalid input: expected record, received array"),
        (
            *("metadata", {"a": "x" * 10_000}),
            "metadata must be less than 10,000 characters when stringified",
        ),
        ("metadata", nested(MAX_METADATA_DEPTH + 1), "metadata is nested too deeply"),
    ],
)
def test_what_a_person_typed_never_loses_the_lead(
    name: str, value: object, reason: str
) -> None:
    fields, notes = sanitise({**GOOD, name: value})

    assert fields == validate(GOOD)
    assert notes == (f"{name} was left out: {reason}.",)


def test_each_field_left_out_has_its_note() -> None:
    _, notes = sanitise(
        {**GOOD, "customerName": 1, "customerEmail": "x", "metadata": 1}
    )

    left_out = [note.split()[0] for note in notes]
    assert left_out == ["customerName", "customerEmail", "metadata"]


@pytest.mark.parametrize("name", ["customerName", "customerEmail", "customerAvatar"])
def test_an_empty_field_of_a_form_is_simply_absent(name: str) -> None:
    assert sanitise({**GOOD, name: ""}) == (validate(GOOD), ())


def test_a_space_around_an_address_is_mended() -> None:
    fields, notes = sanitise({**GOOD, "customerEmail": " ann@example.com\u00a0"})

    assert (fields.customer_email, notes) == ("ann@example.com", ())


@pytest.mark.parametrize(
    ("name", "value", "code", "message"),
    [
        *(bad for bad in BAD_FIELDS if bad[0] in INTEGRATORS_FIELDS),
        ("eventName", "a\udfff", "custom", UNSTORABLE),
        ("clickId", "\ud800", "custom", UNSTORABLE),
        ("customerExternalId", "a\x00", "custom", UNSTORABLE),
        ("customerExternalId", None, "invalid_type", f"{TEXT_EXPECTED} null"),
        (
            *("customerExternalId", " ", "too_small"),
            "Too small: expected string to have >=1 characters",
        ),
        (
            *("customerExternalId", "u" * 101, "too_big"),
            "Too big: expected string to have <=100 characters",
        ),
    ],
)
def test_what_the_integrator_wrote_must_be_right(
    name: str, value: object, code: str, message: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        sanitise({**GOOD, name: value})

    assert caught.value.issue.text == f"{code}: {name}: {message}"
    assert caught.value.issue.status == 422


PLACEHOLDERS = (
    *("undefined", "null", "NULL", "NaN", "None", "nil", "true", "false", "test"),
    *("undefined:undefined", "null-null", "undefinednull", "-Infinity", "(not set)"),
    *("0", "000", "0.0", "00000000-0000-0000-0000-000000000000"),
    *("[object Object]", "user_[object Object]", "[object Promise]"),
    *("{id}", "{{ user.id }}", "${user.id}", "#{id}", "%7Bid%7D", "%7B%7Bid%7D%7D"),
    *("<id>", "<%= user.id %>", "%ID%", "__ID__", "CLICK_ID_HERE", "YOUR_USER_ID"),
)


@pytest.mark.parametrize("name", ["customerExternalId", "externalId", "customerId"])
@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_a_placeholder_is_no_customer(name: str, text: str) -> None:
    """Every sign-up of a site with such a fault would be one and the same person."""
    with pytest.raises(InvalidFieldError, match="placeholder") as caught:
        sanitise({"eventName": "Sign Up", name: text})

    assert caught.value.issue.status == 422


@pytest.mark.parametrize(
    "text",
    [
        *("10", "0x1f", "00ff00", "u_0", "testa", "test@example.com", "nullable"),
        *("Nancy", "nilsson", "falsework", "undefined1", "dev_null", "JOHN_DOE"),
        *("a{b}", "a<b>", "100%", "user-0000", "auth0|123", "550e8400-e29b-41d4-a716"),
    ],
)
def test_what_only_looks_like_a_placeholder_is_a_customer(text: str) -> None:
    fields, notes = sanitise({"eventName": "Sign Up", "customerExternalId": text})

    assert (fields.customer_external_id, notes) == (text, ())


def test_an_alias_of_the_wrong_type_is_named_when_it_is_needed() -> None:
    body = {"eventName": "Sign Up", "customerId": 7}

    text = issue_of(lambda: sanitise(body))

    assert text == f"invalid_type: customerId: {TEXT_EXPECTED} number"


def test_an_absent_customer_is_undefined_and_a_422() -> None:
    text = (
        "invalid_type: customerExternalId: "
        "Invalid input: expected string, received undefined"
    )

    assert issue_of(lambda: sanitise({"eventName": "Sign Up"})) == text


def test_a_bad_quantity_is_left_out_where_nobody_could_be_told() -> None:
    fields, notes = sanitise({**GOOD, "eventQuantity": "3"}, lenient_quantity=True)

    assert fields.event_quantity is None
    assert notes == (
        "eventQuantity was left out: invalid input: expected number, received string.",
    )


def test_a_good_quantity_is_kept_where_a_bad_one_would_not_be() -> None:
    fields, notes = sanitise({**GOOD, "eventQuantity": 3}, lenient_quantity=True)

    assert (fields.event_quantity, notes) == (3, ())


def test_lone_surrogates_in_metadata_are_kept() -> None:
    metadata = {"\ud800": ["\udfff"]}

    assert sanitise({**GOOD, "metadata": metadata})[0].metadata == metadata


def test_infinity_in_metadata_becomes_null_as_dub_would_store_it() -> None:
    metadata = {"a": math.inf, "b": [math.nan, {"c": -math.inf}], "d": 1.5}

    fields, notes = sanitise({**GOOD, "metadata": metadata})

    assert fields.metadata == {"a": None, "b": [None, {"c": None}], "d": 1.5}
    assert notes == ()


def test_metadata_at_the_deepest_level_is_kept() -> None:
    metadata = nested(MAX_METADATA_DEPTH)

    assert sanitise({**GOOD, "metadata": metadata})[0].metadata == metadata


@untimed
@given(any_body)
def test_what_passes_can_be_stored_and_dub_takes_it(body: dict[str, object]) -> None:
    try:
        fields, _ = sanitise(body, lenient_quantity=True)
    except InvalidFieldError:
        return
    call = json.dumps(lead_body(lead_of(fields), Step.RECORD), allow_nan=False)
    kept = dataclasses.replace(fields, click_id=fields.click_id or "")

    # Dub refuses nothing more, and nothing was changed on the way.
    assert validate(json.loads(call)) == kept
    assert sanitise(json.loads(call)) == (kept, ())


@untimed
@given(any_body)
def test_what_passes_is_text_that_a_database_keeps(body: dict[str, object]) -> None:
    try:
        fields, _ = sanitise(body, lenient_quantity=True)
    except InvalidFieldError:
        return
    texts = (fields.event_name, fields.customer_external_id, fields.customer_name)

    for text in (*texts, fields.click_id, fields.customer_email):
        assert b"\x00" not in (text or "").encode("utf-8", "strict")


def test_a_note_never_quotes_what_was_typed() -> None:
    secret = "s3cr3t@"
    person = {"customerName": secret * 20, "customerEmail": secret, "metadata": secret}

    _, notes = sanitise({**GOOD, **person})

    assert len(notes) == 3
    assert not any(secret in note for note in notes)


def test_fields_do_not_show_a_person_in_their_repr() -> None:
    fields = validate({**GOOD, "customerName": "Ann", "metadata": {"k": "secret"}})

    assert "Ann" not in repr(fields)
    assert "u_1" not in repr(fields)
    assert "secret" not in repr(fields)


# --- e-mail, names and keys ---


@pytest.mark.parametrize(
    "address",
    [
        "ann@example.com",
        "o'brien@x.com",
        "'a'+@x.com",
        "a+b@x.com",
        "Ann.Lee@EXAMPLE.Co.UK",
        "_@x.com",
        "a_b-c@my-site.example",
        "a@b-.com",
        "1@1.com",
    ],
)
def test_an_address_that_dub_takes(address: str) -> None:
    assert is_email(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ann",
        "@x.com",
        "ann@",
        "ann@x.com ",
        " ann@x.com",
        "ann@x.com\n",
        "a!b@x.com",
        "a/b@x.com",
        "a&b@x.com",
        "a%b@x.com",
        "a=b@x.com",
        ".ann@x.com",
        "ann.@x.com",
        "a..b@x.com",
        "ann'@x.com",
        "änn@x.com",
        "ann@äx.com",
        "user@localhost",
        "user@127.0.0.1",
        "user@[127.0.0.1]",
        "user@x_y.com",
        "user@-x.com",
        "user@x..com",
        "user@example.xn--p1ai",
        "user@x.c",
        "a@b@x.com",
        # Letters that only fold to ASCII ones.
        "ann@x.\u212aom",
        "ann@x.\u017fom",
        "\u0661@x.com",
    ],
)
def test_an_address_that_dub_refuses(address: str) -> None:
    assert not is_email(address)


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("Sign Up", "sign-up"),
        ("sign-up", "sign-up"),
        ("SIGN UP", "sign-up"),
        ("Signup", "signup"),
        ("a  b", "a--b"),
        ("a\tb", "a\tb"),
    ],
)
def test_an_event_is_folded_as_in_dubs_dedupe_key(name: str, folded: str) -> None:
    assert fold_event(name) == folded


def test_spellings_that_dub_folds_share_a_key_and_kinds_do_not() -> None:
    key = dedupe_key("u_1", "Sign Up", deferred=False)

    assert key == dedupe_key("u_1", "sign-up", deferred=False)
    assert key != dedupe_key("U_1", "Sign Up", deferred=False)
    assert key != dedupe_key("u_1", "Sign Up", deferred=True)


key_parts = st.tuples(st.text(":1ab", max_size=4), st.text(":1ab", max_size=4))


@untimed
@given(key_parts, key_parts)
def test_different_leads_never_share_a_key(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    same = dedupe_key(*one, deferred=True) == dedupe_key(*other, deferred=True)

    assert same == (one == other)


# --- the body of a call ---


def lead_of(fields: LeadFields) -> Lead:
    """Make the lead that capture would make of these fields."""
    return Lead(
        id="lead_1",
        source="hook",
        click_id=fields.click_id or "",
        created_at=0,
        event_name=fields.event_name,
        customer_external_id=fields.customer_external_id,
        mode=fields.mode,
        customer_name=fields.customer_name,
        customer_email=fields.customer_email,
        customer_avatar=fields.customer_avatar,
        event_quantity=fields.event_quantity,
        metadata=fields.metadata,
    )


def test_the_body_leaves_out_what_is_not_known() -> None:
    lead = Lead("lead_1", "hook", "", "Sign Up", "u_1", 0)

    assert lead_body(lead, Step.RECORD) == {
        "clickId": "",
        "eventName": "Sign Up",
        "customerExternalId": "u_1",
        "mode": "async",
    }


def test_proving_differs_from_recording_in_the_mode_alone() -> None:
    full = {
        **GOOD,
        "customerName": "Ann",
        "customerEmail": "ann@example.com",
        "customerAvatar": "a",
        "mode": "wait",
        "eventQuantity": 2,
        "metadata": {"plan": "pro"},
    }
    lead = lead_of(validate(full))

    assert lead_body(lead, Step.RECORD) == full
    assert lead_body(lead, Step.PROVE) == {**full, "mode": "deferred"}


def test_what_proving_has_uploaded_is_not_uploaded_again_by_recording() -> None:
    lead = lead_of(validate({**GOOD, "customerAvatar": "https://a.example/a.png"}))

    proved = lead_body(lead, Step.RECORD, proved=True)

    assert "customerAvatar" not in proved
    assert {**proved, "customerAvatar": lead.customer_avatar} == lead_body(
        lead, Step.RECORD
    )


# --- JavaScript's measures ---


@pytest.mark.parametrize(
    ("text", "length"),
    [("", 0), ("abc", 3), ("é", 1), ("\U0001f600", 2), ("a\ud800", 2), ("\uffff", 1)],
)
def test_a_text_is_measured_in_utf16_units(text: str, length: int) -> None:
    assert utf16_len(text) == length


@untimed
@given(any_text)
def test_utf16_length_is_that_of_the_encoding(text: str) -> None:
    assert utf16_len(text) == len(text.encode("utf-16-le", "surrogatepass")) // 2


def test_trimming_is_javascripts_and_not_pythons() -> None:
    assert js_trim("\ufeff\u00a0 x \u3000\u2029") == "x"
    assert js_trim("\u0085x\x1c") == "\u0085x\x1c"


@pytest.mark.parametrize(
    ("value", "depth"), [(1, 0), ({}, 1), ([], 1), ({"a": [1, {}], "b": 2}, 3)]
)
def test_depth_counts_objects_and_arrays(value: object, depth: int) -> None:
    assert json_depth(value) == depth


def test_any_depth_can_be_measured() -> None:
    deep = nested(50_000)

    assert json_depth(deep) == 50_000
    assert metadata_length(deep) == 49_999 * len('{"a":}') + len("{}")


def test_what_json_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        metadata_length({"a": {1}})


def test_what_is_too_long_is_not_measured_to_its_end() -> None:
    unmeasured: Any = {1}

    assert metadata_length([unmeasured] * 20, 10) > 10
    assert metadata_length({"a": 1}, 10) == len('{"a":1}')
    with pytest.raises(TypeError):
        metadata_length([unmeasured] * 20, 100)


@untimed
@given(json_values)
def test_without_numbers_the_length_is_that_of_compact_json(value: object) -> None:
    plain = without_numbers(value)
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False)
    # A lone surrogate is one unit in Python's text, six where it is escaped.
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    lone = joined.count("\ufffd") - text.count("\ufffd")

    assert metadata_length(plain) == utf16_len(joined) + 5 * lone


def without_numbers(value: Any) -> Any:
    """Put null in the place of every number."""
    if isinstance(value, dict):
        return {key: without_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_numbers(item) for item in value]
    return value if isinstance(value, str | bool) else None


TRICKY_JSON = (
    *("null", "true", "false", '""', "{}", "[]", '{"a":{},"b":[]}', "[1,2,3]"),
    *("0", "-0", "-0.0", "1.0", "1.50", "100", "-1", "0.1", "123456.789", "5e-324"),
    *("1e20", "1e21", "123456789012345680000", "1234567890123456800000", "1e-6"),
    *("1e-7", "1.5e-7", "0.000001234", "1.7976931348623157e308", "1e400", "-1e400"),
    *("9007199254740993", "12345678901234567890123", "1" + "0" * 400, "-1.5e+300"),
    r'"\ud83d\ude00"',
    r'"\ud83d"',
    r'"\ude00\ud83d"',
    r'"\ud83d\ud83d\ude00"',
    r'"\u0000\u0001\u000b\u001f\u007f\u0080\u2028\u2029\ufeff"',
    r'"\b\f\n\r\t\"\\\/"',
    r'{"\ud800":1,"\n":2,"10":3,"9":4}',
)
TRICKY_TEXTS = (
    *("", " ", "Sign Up", "\u0085x\u0085", "\x1cx", "\ufeffx\ufeff", "\u180ex"),
    *("\u200bx", "\u3000x\u2028", "İstanbul", "ΣΑΣ", "ÄÖÜ ẞ", "ǅ", "Ω K Å"),
    *("a\u00a0b", "\ud800 X", "\U00010400"),
)

NODE_PROGRAM = """
const {json, texts} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const event = (text) => text.toLowerCase().replaceAll(" ", "-");
console.log(JSON.stringify({
  lengths: json.map((text) => JSON.stringify(JSON.parse(text)).length),
  units: texts.map((text) => text.length),
  trimmed: texts.map((text) => text.trim()),
  folded: texts.map(event),
}));
"""


def random_json(dice: random.Random, depth: int = 0) -> Any:
    """Make a JSON value with awkward numbers and characters in it."""
    kind = dice.randrange(4 if depth > 3 else 6)
    if kind == 0:
        exponent = dice.randrange(-330, 309)
        return float(
            f"{dice.choice(['', '-'])}{dice.randrange(10**17)}e{exponent - 17}"
        )
    if kind == 1:
        return dice.choice([round(dice.uniform(-1e7, 1e7), dice.randrange(9)), None])
    if kind == 2:
        return dice.randrange(-(10 ** dice.randrange(1, 30)), 10 ** dice.randrange(30))
    if kind == 3:
        return random_text(dice)
    items = [random_json(dice, depth + 1) for _ in range(dice.randrange(4))]
    return items if kind == 4 else {random_text(dice): item for item in items}


def random_text(dice: random.Random) -> str:
    """Make a text that prefers control characters, surrogates and spaces."""
    ranges = ((0, 0x40), (0x7E, 0x100), (0x2000, 0x2070), (0xD7FF, 0xE001), (0, 0x2FFF))
    return "".join(
        chr(dice.randrange(*dice.choice(ranges))) for _ in range(dice.randrange(8))
    )


@pytest.mark.process
def test_lengths_trimming_and_folding_are_those_of_a_real_javascript() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: nothing real to compare with")
    dice = random.Random(20)  # noqa: S311 - the same values in every run
    texts = [*TRICKY_TEXTS, *(random_text(dice) for _ in range(2000))]
    values = [random_json(dice) for _ in range(4000)]
    documents = [*TRICKY_JSON, *(json.dumps(value) for value in values)]

    run = subprocess.run(
        [node, "-e", NODE_PROGRAM],
        input=json.dumps({"json": documents, "texts": texts}),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    real = json.loads(run.stdout)

    parsed = [json.loads(text) for text in documents]
    assert dict(zip(documents, map(metadata_length, parsed), strict=True)) == dict(
        zip(documents, real["lengths"], strict=True)
    )
    joined = [json.loads(json.dumps(text)) for text in texts]
    assert [utf16_len(text) for text in joined] == real["units"]
    assert [js_trim(text) for text in joined] == real["trimmed"]
    assert [fold_event(text) for text in joined] == real["folded"]
