"""What Dub's answers mean for a lead."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.dub import errors
from relay.core.dub.errors import (
    CODES,
    error_body,
)
from relay.core.dub.replies import (
    MAX_WAIT_MS,
    Answer,
    Meaning,
    NoAnswer,
    Outcome,
    interpret,
    retry_after,
)
from relay.core.leads import Step

NOW = 1_750_000_000_000
BOTH_STEPS = pytest.mark.parametrize("step", [Step.PROVE, Step.RECORD])

# A loaded machine must not fail a test of values.
untimed = settings(deadline=None)

SUCCESS = {
    "click": {"id": "c1"},
    "link": {"id": "link_1", "domain": "dub.sh", "key": "x"},
    "customer": {"name": "Ann", "email": None, "avatar": None, "externalId": "u"},
}


def answer(status: int, body: object = None, **headers: str) -> Answer:
    """Make an answer with a JSON body; headers are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, json.dumps(body).encode())


def refusal(code: str, message: str) -> Answer:
    """Make an error as Dub sends it."""
    return answer(CODES[code], error_body(code, message))


def meaning(reply: Answer | NoAnswer, step: Step = Step.PROVE) -> Meaning:
    """Give only what a reply means."""
    return interpret(reply, step, NOW).meaning


# --- 200 ---


@BOTH_STEPS
def test_a_link_in_the_answer_means_that_dub_took_it(step: Step) -> None:
    outcome = interpret(answer(200, SUCCESS), step, NOW)

    assert outcome.meaning is Meaning.TAKEN
    assert outcome.http_status == 200
    assert not outcome.may_have_counted


def test_a_null_link_means_that_dub_had_it_before() -> None:
    outcome = interpret(answer(200, {**SUCCESS, "link": None}), Step.RECORD, NOW)

    assert outcome.meaning is Meaning.NO_LINK
    assert not outcome.may_have_counted


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>ok</html>",
        b'{"click": {"id": "c1"}, "link": {"id"',
        b"[]",
        b"null",
        b"{}",
        b'{"link": null}',
        b'{"link": null, "click": {}, "customer": null}',
        b'{"click": {}, "customer": {}}',
        b'{"link": "x", "click": {}, "customer": {}}',
        b'\xff{"link": {}}',
        b"[" * 200_000,
    ],
)
def test_a_200_that_is_not_dubs_is_tried_again_and_may_have_counted(
    body: bytes,
) -> None:
    reply = Answer(200, {}, body)

    assert meaning(reply) is Meaning.AGAIN
    assert interpret(reply, Step.RECORD, NOW).may_have_counted
    assert not interpret(reply, Step.PROVE, NOW).may_have_counted


# --- refusals ---


@BOTH_STEPS
@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("bad_request", errors.MISCONFIGURED_HEADER, Meaning.OPERATOR),
        ("unauthorized", errors.MISSING_HEADER, Meaning.OPERATOR),
        ("unauthorized", errors.INVALID_KEY, Meaning.OPERATOR),
        ("unauthorized", errors.EXPIRED_KEY, Meaning.OPERATOR),
        ("not_found", errors.WORKSPACE_ID_NOT_FOUND, Meaning.OPERATOR),
        ("not_found", errors.WORKSPACE_NOT_FOUND, Meaning.OPERATOR),
        ("invite_pending", "Workspace invitation pending.", Meaning.OPERATOR),
        ("invite_expired", "Workspace invitation expired.", Meaning.OPERATOR),
        ("forbidden", errors.WRONG_ROLE, Meaning.OPERATOR),
        ("forbidden", errors.NEED_HIGHER_PLAN, Meaning.OPERATOR),
        ("exceeded_limit", "Limit exceeded.", Meaning.OPERATOR),
        ("rate_limit_exceeded", errors.TOO_MANY_REQUESTS, Meaning.THROTTLED),
        ("bad_request", errors.INVALID_JSON, Meaning.FINAL),
        ("bad_request", errors.EXTERNAL_ID_REQUIRED, Meaning.FINAL),
        ("bad_request", errors.CLICK_ID_REQUIRED, Meaning.FINAL),
        ("unprocessable_entity", "too_small: eventName: x", Meaning.FINAL),
        ("conflict", "A conflict.", Meaning.FINAL),
        ("not_found", errors.click_not_found("c1"), Meaning.CLICK_MISSING),
        ("not_found", errors.link_not_found("c1"), Meaning.FINAL),
        ("not_found", errors.link_elsewhere("l1", "clickId c1"), Meaning.FINAL),
        ("not_found", errors.link_disabled("l1", "clickId c1", "lead"), Meaning.FINAL),
        ("not_found", errors.customers_link_not_found("cus_1"), Meaning.FINAL),
        ("not_found", errors.link_elsewhere("l1", "customer cus_1"), Meaning.FINAL),
        ("not_found", errors.link_disabled("l1", "customer c", "sale"), Meaning.FINAL),
        ("not_found", "No record was found.", Meaning.FINAL),
    ],
)
def test_a_refusal_means_what_its_message_says_and_never_counts(
    step: Step, code: str, message: str, expected: Meaning
) -> None:
    outcome = interpret(refusal(code, message), step, NOW)

    assert outcome.meaning is expected
    assert (outcome.http_status, outcome.code) == (CODES[code], code)
    assert not outcome.may_have_counted


def test_each_refusal_has_a_reason_of_its_own() -> None:
    replies = [
        refusal("bad_request", errors.MISCONFIGURED_HEADER),
        refusal("bad_request", errors.CLICK_ID_REQUIRED),
        refusal("bad_request", errors.INVALID_JSON),
        refusal("unauthorized", errors.INVALID_KEY),
        refusal("unauthorized", errors.EXPIRED_KEY),
        refusal("forbidden", errors.WRONG_ROLE),
        refusal("forbidden", errors.NEED_HIGHER_PLAN),
        refusal("exceeded_limit", "x"),
        refusal("not_found", errors.WORKSPACE_ID_NOT_FOUND),
        refusal("not_found", errors.WORKSPACE_NOT_FOUND),
        refusal("not_found", errors.click_not_found("c1")),
        refusal("not_found", errors.link_not_found("c1")),
        refusal("not_found", errors.link_elsewhere("l1", "clickId c1")),
        refusal("not_found", errors.link_disabled("l1", "clickId c1", "lead")),
        refusal("not_found", "anything else"),
        answer(404),
    ]

    reasons = [interpret(reply, Step.PROVE, NOW).reason for reply in replies]

    assert len(set(reasons)) == len(replies)


def test_a_refused_field_is_named_in_the_reason() -> None:
    text = "too_big: customerName: Too big: expected string to have <=100 characters"

    reason = interpret(refusal("unprocessable_entity", text), Step.PROVE, NOW).reason

    assert reason == f"Dub refused a field: {text}"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("unprocessable_entity", "ann@example.com is taken"),
        ("conflict", "ann@example.com is taken"),
        ("not_found", "No customer ann@example.com"),
        ("not_found", errors.click_not_found("ann@example.com")),
        ("internal_server_error", "ann@example.com"),
    ],
)
def test_a_reason_does_not_repeat_what_a_person_typed(code: str, message: str) -> None:
    reason = interpret(refusal(code, message), Step.PROVE, NOW).reason

    assert "ann@example.com" not in reason


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 407, 408, 409])
@pytest.mark.parametrize("body", [b"<html>Not Found</html>", b'{"error": "x"}', b""])
@pytest.mark.parametrize("step", [Step.RECORD, Step.SALE])
def test_a_refusal_that_is_not_dub_shaped_proves_nothing(
    status: int, body: bytes, step: Step
) -> None:
    outcome = interpret(Answer(status, {}, body), step, NOW)

    assert (outcome.meaning, outcome.code) == (Meaning.AGAIN, None)
    assert outcome.may_have_counted
    assert outcome.claims_key is (step is Step.RECORD)


@pytest.mark.parametrize("status", [410, 413, 425, 451, 499])
def test_no_refusal_of_something_between_is_final(status: int) -> None:
    outcome = interpret(Answer(status, {}, b"<html>"), Step.PROVE, NOW)

    assert (outcome.meaning, outcome.may_have_counted) == (Meaning.AGAIN, False)


def test_a_rate_limit_of_something_between_is_kept_to() -> None:
    outcome = interpret(Answer(429, {}, b"<html>"), Step.RECORD, NOW)

    assert (outcome.meaning, outcome.may_have_counted) == (Meaning.THROTTLED, True)


@pytest.mark.parametrize(
    ("message", "claims"),
    [
        ("Click event not found for click ID: x", True),
        ("Link not found for this click", True),
        ("Link x does not belong to the workspace", True),
        ("Link x is disabled, lead not tracked", True),
        ("Workspace not found.", False),
    ],
)
def test_a_refusal_shows_whether_dub_has_claimed_its_key(
    message: str, *, claims: bool
) -> None:
    assert (
        interpret(refusal("not_found", message), Step.RECORD, NOW).claims_key is claims
    )
    assert not interpret(refusal("not_found", message), Step.PROVE, NOW).claims_key


@pytest.mark.parametrize(
    "error",
    [
        {"code": "not_found", "message": 7},
        {"code": 404, "message": "Click event not found"},
        {"code": "Not Found!", "message": "Click event not found"},
        {"message": "Click event not found"},
        ["not_found", "Click event not found"],
        None,
    ],
)
def test_only_dubs_own_envelope_tells_of_a_missing_click(error: object) -> None:
    assert meaning(answer(404, {"error": error})) is Meaning.AGAIN


# --- no clear answer ---


@pytest.mark.parametrize("status", [201, 202, 204, 301, 302, 308, 500, 502, 504, 599])
def test_an_unclear_answer_to_a_recording_call_may_have_counted(status: int) -> None:
    reply = answer(status, SUCCESS)

    assert interpret(reply, Step.RECORD, NOW).may_have_counted
    assert not interpret(reply, Step.PROVE, NOW).may_have_counted
    assert meaning(reply) is Meaning.AGAIN
    assert str(status) in interpret(reply, Step.PROVE, NOW).reason


@pytest.mark.parametrize(
    ("sent", "step", "counted"),
    [
        (True, Step.RECORD, True),
        (False, Step.RECORD, False),
        (True, Step.PROVE, False),
        (False, Step.PROVE, False),
    ],
)
def test_no_answer_may_have_counted_once_the_recording_call_was_sent(
    sent: bool,
    step: Step,
    counted: bool,
) -> None:
    outcome = interpret(NoAnswer(sent=sent, reason="Dub did not answer"), step, NOW)

    assert outcome == Outcome(
        Meaning.AGAIN,
        "Dub did not answer",
        may_have_counted=counted,
        claims_key=counted,
    )


error_details = st.dictionaries(
    st.sampled_from(["code", "message"]),
    st.sampled_from([*CODES, errors.WORKSPACE_NOT_FOUND]) | st.text() | st.integers(),
)
bodies = st.binary() | st.one_of(
    st.builds(lambda detail: {"error": detail}, error_details),
    st.builds(lambda link: {**SUCCESS, "link": link}, st.none() | error_details),
).map(lambda body: json.dumps(body).encode())
answers = st.builds(
    Answer,
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset"]), st.text()),
    bodies,
)


@untimed
@given(answers, st.sampled_from([Step.PROVE, Step.RECORD]))
def test_every_answer_means_something(reply: Answer, step: Step) -> None:
    outcome = interpret(reply, step, NOW)

    assert outcome.reason
    assert "{" not in outcome.reason
    assert outcome.http_status == reply.status
    if outcome.may_have_counted:
        assert step is not Step.PROVE
        assert outcome.meaning in {Meaning.AGAIN, Meaning.THROTTLED}
    if outcome.meaning in (Meaning.TAKEN, Meaning.NO_LINK):
        assert reply.status == 200
    assert outcome.retry_at is None or NOW <= outcome.retry_at <= NOW + MAX_WAIT_MS


# --- when to come again ---


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", NOW),
        ("30", NOW + 30_000),
        (" 30\t", NOW + 30_000),
        ("1.5", NOW + 1_500),
        ("0.0001", NOW + 1),
        ("86400", NOW + MAX_WAIT_MS),
        ("1000000000", NOW + MAX_WAIT_MS),
        # Dub's own: epoch milliseconds.
        (str(NOW + 42_000), NOW + 42_000),
        (str(NOW - 42_000), NOW),
        (str(NOW + 10 * MAX_WAIT_MS), NOW + MAX_WAIT_MS),
        # What Dub's documentation says: epoch seconds.
        (str(NOW // 1000 + 42), NOW + 42_000),
        (str(NOW // 1000 - 42), NOW),
        # RFC 9110's three dates; NOW is 2025-06-15T15:06:40Z.
        ("Sun, 15 Jun 2025 15:07:00 GMT", NOW + 20_000),
        ("Sunday, 15-Jun-25 15:07:00 GMT", NOW + 20_000),
        ("Sun Jun 15 15:07:00 2025", NOW + 20_000),
        ("Sun, 15 Jun 2025 15:07:00 -0000", NOW + 20_000),
        ("Sun, 15 Jun 2025 14:00:00 GMT", NOW),
        ("Mon, 16 Jun 2025 15:07:00 GMT", NOW + MAX_WAIT_MS),
    ],
)
def test_a_wait_is_read_whatever_its_unit(value: str, expected: int) -> None:
    assert retry_after(value, NOW) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", " ", "-1", "+5", "nan", "inf", "Infinity", "1e300", "1e3", "0x10"),
        *("1_000", "soon", "5 s", "5,6", "1.", ".5", "9" * 16, "9" * 400, "5\n6"),
        "Sun, \u0661\u0665 Jun 2025 15:07:00 GMT",
        "\u0663\u0660",
        "\uff15",
        "Sun, 99 Jun 2025 15:07:00 GMT",
        "Sun, 15 Jun 99999 15:07:00 GMT",
        "15 Jun 2025 15:07 +9999999999",
        "1 Jun 2025 5:7 +99999999999999999999999",
        "Sun, 15 Jun 2025 15:07:00 GMT" + " " * 100 + "x",
    ],
)
def test_an_absurd_wait_is_ignored(value: str | None) -> None:
    assert retry_after(value, NOW) is None


date_like = st.text("SunMothJ ,:-+0123456789GT", max_size=45).map("Sun, ".__add__)


@untimed
@given(st.text() | date_like | st.floats().map(repr) | st.integers().map(str))
def test_any_wait_lies_between_now_and_the_cap(value: str) -> None:
    at = retry_after(value, NOW)

    assert at is None or NOW <= at <= NOW + MAX_WAIT_MS


@untimed
@given(st.integers(0, MAX_WAIT_MS // 1000))
def test_all_forms_of_one_time_agree(seconds: int) -> None:
    now = NOW // 1000 * 1000
    at = now + seconds * 1000
    date = format_datetime(datetime.fromtimestamp(at / 1000, UTC), usegmt=True)

    for value in (str(seconds), str(at), str(at // 1000), date):
        assert retry_after(value, now) == at


@untimed
@given(st.floats(0, MAX_WAIT_MS / 1000, allow_nan=False))
def test_a_wait_is_never_cut_short(seconds: float) -> None:
    at = retry_after(f"{seconds:.9f}", NOW)

    assert at is not None
    assert math.isclose(at, NOW + seconds * 1000, abs_tol=1.001)
    assert at >= NOW + round(seconds, 9) * 1000 - 1e-3


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_is_taken_where_it_was_asked_for(status: int) -> None:
    reply = answer(status, retry_after=str(NOW + 5_000))

    assert interpret(reply, Step.PROVE, NOW).retry_at == NOW + 5_000


def test_the_rates_reset_stands_in_for_a_missing_wait() -> None:
    reply = answer(429, x_ratelimit_reset=str(NOW + 5_000))

    assert interpret(reply, Step.PROVE, NOW).retry_at == NOW + 5_000


def test_a_readable_wait_beats_the_rates_reset() -> None:
    reply = answer(429, retry_after="3", x_ratelimit_reset=str(NOW + 5_000))

    assert interpret(reply, Step.PROVE, NOW).retry_at == NOW + 3_000


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_dubs_wait_on_other_errors_only_tells_of_its_window(status: int) -> None:
    reply = answer(status, retry_after=str(NOW + 5_000))

    assert interpret(reply, Step.PROVE, NOW).retry_at is None


def test_an_answer_does_not_show_a_person_in_its_repr() -> None:
    reply = answer(200, SUCCESS, set_cookie="session=s3cr3t")

    assert "Ann" not in repr(reply)
    assert "s3cr3t" not in repr(reply)
